#pragma once

/// What checks rest on.  "VFIO uAPI" is include/uapi/linux/vfio.h of Linux 6.12; "vfio-user" is its protocol
/// 0.2, which takes the states and their rules from there.
namespace handover::check::clause {

inline constexpr char kFeatures[] =
    "VFIO uAPI (Linux 6.12), vfio_device_feature_migration: STOP_COPY is mandatory, P2P and PRE_COPY may be "
    "added";
inline constexpr char kArc[] =
    "VFIO uAPI (Linux 6.12), vfio_device_mig_state: the arcs and the combined transitions made of them";
inline constexpr char kSame[] =
    "VFIO uAPI (Linux 6.12), vfio_device_mig_state: a request for the current state succeeds and changes "
    "nothing";
inline constexpr char kIllegal[] =
    "VFIO uAPI (Linux 6.12), vfio_device_feature_mig_state: a transition that is not allowed fails with "
    "EINVAL and leaves "
    "the state; vfio-user: the same";
inline constexpr char kEnd[] =
    "VFIO uAPI (Linux 6.12), STOP_COPY: the end of the data session is the end of file; vfio-user, "
    "MIG_DATA_READ: fewer "
    "bytes than asked for";
inline constexpr char kPause[] =
    "VFIO uAPI (Linux 6.12), PRE_COPY: ENOMSG is a temporary end; vfio-user, MIG_DATA_READ: fewer bytes than "
    "asked for "
    "are "
    "a pause";
inline constexpr char kSessionKept[] =
    "VFIO uAPI (Linux 6.12), PRE_COPY* -> STOP_COPY: the data session goes on, and unread data stays in it";
inline constexpr char kCuts[] =
    "VFIO uAPI (Linux 6.12), data_fd: a stream of bytes; vfio-user, MIG_DATA_READ: message boundaries mean "
    "nothing";
inline constexpr char kEnds[] =
    "VFIO uAPI (Linux 6.12), STOP_COPY -> STOP, PRE_COPY -> RUNNING: the data session is ended and its data "
    "discarded";
inline constexpr char kWrongState[] =
    "VFIO uAPI (Linux 6.12), data_fd: valid in the session's states only; vfio-user, MIG_DATA_READ, "
    "MIG_DATA_WRITE: "
    "EINVAL "
    "elsewhere";
inline constexpr char kSize[] =
    "VFIO uAPI (Linux 6.12), vfio_device_feature_mig_data_size: an estimate, in any state; more or less may "
    "come";
inline constexpr char kInitial[] =
    "VFIO uAPI (Linux 6.12), vfio_precopy_info: initial_bytes falls to zero as the initial data is read";
inline constexpr char kInfoState[] =
    "VFIO uAPI (Linux 6.12), VFIO_MIG_GET_PRECOPY_INFO: in PRE_COPY and PRE_COPY_P2P only";
inline constexpr char kLoad[] =
    "VFIO uAPI (Linux 6.12), STOP -> RESUMING -> STOP: the device takes the state that one of its kind gave";
inline constexpr char kJudge[] =
    "VFIO uAPI (Linux 6.12), RESUMING -> STOP: data that is incomplete, inconsistent or invalid makes it "
    "fail; a write "
    "may "
    "fail before";
inline constexpr char kFound[] =
    "VFIO uAPI (Linux 6.12), RESUMING -> STOP: data that is found to be invalid makes it fail; finding it is "
    "not promised";
inline constexpr char kReset[] =
    "VFIO uAPI (Linux 6.12), vfio_device_mig_state: a reset moves the device to RUNNING from any state; "
    "vfio-user, "
    "DEVICE_RESET: the same";
inline constexpr char kLogCycle[] =
    "VFIO uAPI (Linux 6.12), DMA_LOGGING_START, REPORT, STOP: one session, and another after it";
inline constexpr char kLogPage[] =
    "VFIO uAPI (Linux 6.12), DMA_LOGGING_START: page_size is a wish, and the device's choice, a power of "
    "two, comes back";
inline constexpr char kLogNotStarted[] =
    "VFIO uAPI (Linux 6.12), DMA_LOGGING_REPORT: only while logging is started; vfio-user: EINVAL";
inline constexpr char kLogAgain[] =
    "VFIO uAPI (Linux 6.12), DMA_LOGGING_START: one session per device; whether a second one is refused is "
    "the driver's "
    "matter";
inline constexpr char kLogClears[] =
    "VFIO uAPI (Linux 6.12), DMA_LOGGING_REPORT: reading clears the log; STOP: no more DMA";
inline constexpr char kLogStates[] =
    "VFIO uAPI (Linux 6.12), DMA_LOGGING: independent of the migration state; the last report is taken in "
    "STOP_COPY";
inline constexpr char kLogRanges[] =
    "VFIO uAPI (Linux 6.12), DMA_LOGGING_START: EINVAL from the kernel; vfio-user: refused, or logged "
    "generously";
inline constexpr char kLogOutside[] =
    "VFIO uAPI (Linux 6.12), DMA_LOGGING_REPORT: EINVAL, or a log of more than was asked for";
inline constexpr char kLogContent[] =
    "VFIO uAPI (Linux 6.12), DMA_LOGGING_REPORT: every page that the device wrote since the report before";

}  // namespace handover::check::clause
