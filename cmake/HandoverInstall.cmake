# The CMake package: find_package(Handover) gives Handover::handover, and `handover` is the command.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/Handover)

install(TARGETS handover EXPORT HandoverTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS handover_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/handover DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.h")
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(EXPORT HandoverTargets NAMESPACE Handover:: DESTINATION ${package_dir})

configure_package_config_file(
  ${CMAKE_CURRENT_LIST_DIR}/HandoverConfig.cmake.in ${PROJECT_BINARY_DIR}/HandoverConfig.cmake
  INSTALL_DESTINATION ${package_dir})
# Before 1.0 a minor version may break what an earlier one promised.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/HandoverConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/HandoverConfig.cmake ${PROJECT_BINARY_DIR}/HandoverConfigVersion.cmake
        DESTINATION ${package_dir})
