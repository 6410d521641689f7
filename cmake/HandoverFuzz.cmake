# handover_fuzz(NAME [LIBS lib ...])
#
# One libFuzzer target NAME_fuzz from NAME_fuzz.cpp; tests/fuzz/corpus/NAME holds its seeds, if it has any.
# All of them are built by the target `fuzz_targets` and listed, one path a line, in fuzz_targets.txt of the
# build folder, which is where `./dev fuzz` finds them.
if(HANDOVER_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "HANDOVER_FUZZ needs clang++ (libFuzzer); use the preset `fuzz`")
  endif()
  # Coverage in every module, so that the fuzzer sees how far its input came.
  target_compile_options(handover_flags INTERFACE -fsanitize=fuzzer-no-link)
  target_link_options(handover_flags INTERFACE -fsanitize=fuzzer-no-link)
  add_custom_target(fuzz_targets)
  file(WRITE ${PROJECT_BINARY_DIR}/fuzz_targets.txt "")
endif()

function(handover_fuzz name)
  cmake_parse_arguments(arg "" "" "LIBS" ${ARGN})
  set(target ${name}_fuzz)
  add_executable(${target} ${name}_fuzz.cpp)
  target_link_libraries(${target} PRIVATE handover handover_flags ${arg_LIBS})
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_link_options(${target} PRIVATE -fsanitize=fuzzer)
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
  add_dependencies(fuzz_targets ${target})
  file(APPEND ${PROJECT_BINARY_DIR}/fuzz_targets.txt "${PROJECT_BINARY_DIR}/bin/${target}\n")
endfunction()
