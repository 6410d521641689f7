# cmake -D build=... -D source=... -D work=... -D compiler=... [-D launcher=...] -P package_test.cmake

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT code EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}\nended with ${code}:\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

function(expect text)
  string(FIND "${output}" "${text}" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "\"${text}\" expected in:\n${output}")
  endif()
endfunction()

file(REMOVE_RECURSE ${work})
run(${CMAKE_COMMAND} --install ${build} --prefix ${work}/prefix)

# The source tree must not be what makes the example build: it is copied away from it.
file(COPY ${source}/examples/embed DESTINATION ${work})
run(${CMAKE_COMMAND} -S ${work}/embed -B ${work}/build -G Ninja -DCMAKE_PREFIX_PATH=${work}/prefix
    -DCMAKE_CXX_COMPILER=${compiler} -DCMAKE_CXX_COMPILER_LAUNCHER=${launcher} -DCMAKE_BUILD_TYPE=Release)
run(${CMAKE_COMMAND} --build ${work}/build)

run(${work}/build/embed)
expect("source: completed")
expect("destination: completed")
expect("here: postmigrate, there: running")
expect("clock: 42 ticks there; memory: equal")

# The installed command runs from where it was put.
run(${work}/prefix/bin/handover --version)
expect("handover 0.1.0")

# A version that this one is not compatible with is not found.
file(WRITE ${work}/wrong/CMakeLists.txt
     "cmake_minimum_required(VERSION 3.25)\nproject(wrong LANGUAGES CXX)\nfind_package(Handover 0.2 REQUIRED)\n")
execute_process(COMMAND ${CMAKE_COMMAND} -S ${work}/wrong -B ${work}/wrong/build -G Ninja
                        -DCMAKE_PREFIX_PATH=${work}/prefix -DCMAKE_CXX_COMPILER=${compiler}
                RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(code EQUAL 0)
  message(FATAL_ERROR "version 0.2 was accepted")
endif()
expect("0.1.0")
