# Gives every target the RUNPATH of the bundle's layout while it is linked, so that
# no file has to be patched afterwards:
#
#   programs            binaries/cuda12/*            $ORIGIN/../../lib
#   libraries           lib/*.so.N                   $ORIGIN
#   loadable backends   lib/libggml-{cpu-*,cuda}.so  $ORIGIN:$ORIGIN/../../lib
#
# A backend is loaded through its link in binaries/cuda12, and then its $ORIGIN is that
# folder: it needs both. Read through CMAKE_PROJECT_TOP_LEVEL_INCLUDES (CMake 3.24); the
# call is deferred until the project has declared its targets.
function(bundle_runpath dir)
    get_property(targets DIRECTORY "${dir}" PROPERTY BUILDSYSTEM_TARGETS)
    foreach(target IN LISTS targets)
        get_target_property(type ${target} TYPE)
        if(type STREQUAL "EXECUTABLE")
            set(runpath "$ORIGIN/../../lib")
        elseif(type STREQUAL "SHARED_LIBRARY")
            set(runpath "$ORIGIN")
        elseif(type STREQUAL "MODULE_LIBRARY")
            set(runpath "$ORIGIN;$ORIGIN/../../lib")
        else()
            continue()
        endif()
        set_target_properties(${target} PROPERTIES
            BUILD_WITH_INSTALL_RPATH ON
            INSTALL_RPATH_USE_LINK_PATH OFF
            INSTALL_RPATH "${runpath}")
    endforeach()
    get_property(subdirs DIRECTORY "${dir}" PROPERTY SUBDIRECTORIES)
    foreach(subdir IN LISTS subdirs)
        bundle_runpath("${subdir}")
    endforeach()
endfunction()

cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL bundle_runpath "${CMAKE_SOURCE_DIR}")
