# handover_test(NAME TIER tier SOURCES a.cpp ... [LIBS lib ...] [FAST] [TIMEOUT seconds] [ENV "A=b" ...]
#               [VM option ...])
#
# One test program.  TIER (unit, integration, interop, kernel, model) becomes its ctest label;
# FAST adds the label "fast": such integration tests also run under the sanitizers.
# A program of the tier kernel is run inside the test VM (tests/kernel/run-in-vm, with the options after VM).
include(GoogleTest)
function(handover_test name)
  cmake_parse_arguments(arg "FAST" "TIER;TIMEOUT" "SOURCES;LIBS;ENV;VM" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE handover handover_flags GTest::gtest GTest::gmock GTest::gtest_main ${arg_LIBS})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_definitions(${name} PRIVATE
    HANDOVER_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/data"
    HANDOVER_BINARY="$<TARGET_FILE:handover_cli>")
  add_dependencies(${name} handover_cli)
  set(labels ${arg_TIER})
  if(arg_FAST)
    list(APPEND labels fast)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
    if(arg_TIER STREQUAL kernel)  # emulated, and so several times slower
      set(arg_TIMEOUT 1200)
    endif()
  endif()
  # One ctest entry a program: with hundreds of small cases, process start would cost more than the cases.
  if(arg_TIER STREQUAL kernel)
    # The VM's own limit is below ctest's, so that what its console said is shown.
    math(EXPR vm_timeout "${arg_TIMEOUT} * 9 / 10")
    add_test(NAME ${name} COMMAND ${PROJECT_SOURCE_DIR}/tests/kernel/run-in-vm --timeout ${vm_timeout}
      --folder ${PROJECT_BINARY_DIR} ${arg_VM} $<TARGET_FILE:${name}>)
    # As many virtual processors as there are real ones: it runs alone.
    set_tests_properties(${name} PROPERTIES FIXTURES_REQUIRED kernel SKIP_RETURN_CODE 77 RUN_SERIAL ON)
  else()
    add_test(NAME ${name} COMMAND ${name})
  endif()
  # A program counts as skipped if it passed nothing, skipped something, and failed nothing: gtest lists failures
  # behind what was skipped, so then the list of what was skipped is the end of its output.
  set(all_skipped "\\[  PASSED  \\] 0 tests\\.\n\\[  SKIPPED \\][^\n]*\n(\\[  SKIPPED \\][^\n]*\n?)+$")
  set_tests_properties(${name} PROPERTIES LABELS "${labels}" TIMEOUT ${arg_TIMEOUT}
    SKIP_REGULAR_EXPRESSION "${all_skipped}" ENVIRONMENT "${arg_ENV}")
endfunction()
