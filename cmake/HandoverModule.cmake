# Compile settings that every target of the project shares, and handover_module().

add_library(handover_flags INTERFACE)
target_compile_features(handover_flags INTERFACE cxx_std_23)
target_compile_options(handover_flags INTERFACE
  -Wall -Wextra -Werror -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Woverloaded-virtual
  -Wnull-dereference -Wimplicit-fallthrough -Wdouble-promotion -fno-strict-overflow)
target_compile_definitions(handover_flags INTERFACE ASIO_STANDALONE ASIO_NO_DEPRECATED SPDLOG_FMT_EXTERNAL)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12 sees null dereferences and dangling pointers inside libstdc++ at -O2 that are not there.
  target_compile_options(handover_flags INTERFACE -Wno-null-dereference -Wno-maybe-uninitialized
    -Wno-stringop-overflow -Wno-array-bounds -Wno-restrict -Wno-dangling-pointer)
else()
  # std::stable_sort of libstdc++ 12 uses what libstdc++ 12 deprecates; Clang does not spare system headers it.
  target_compile_options(handover_flags INTERFACE -Wno-deprecated-declarations)
endif()
if(HANDOVER_SANITIZE)
  target_compile_options(handover_flags INTERFACE -fsanitize=${HANDOVER_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(handover_flags INTERFACE -fsanitize=${HANDOVER_SANITIZE})
  if(HANDOVER_SANITIZE MATCHES "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(handover_flags INTERFACE -Wno-tsan)
  endif()
endif()
find_package(Threads REQUIRED)

# handover_module(NAME SOURCES a.cpp ... [LIBS lib ...])
#
# One module of libhandover: an object library handover_NAME whose objects end in libhandover.
# LIBS are the third-party libraries and other modules that it uses.
function(handover_module name)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBS" ${ARGN})
  add_library(handover_${name} OBJECT ${arg_SOURCES})
  target_include_directories(handover_${name} PUBLIC
    ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(handover_${name} PUBLIC handover_flags Threads::Threads fmt::fmt ${arg_LIBS})
  set_property(GLOBAL APPEND PROPERTY HANDOVER_MODULES handover_${name})
endfunction()
