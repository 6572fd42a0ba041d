//! Which program made a record.

use bindwatch_probe::abi::record::hook;

use super::DecodeError;
use crate::event::Hook;

pub(super) fn hook_of(number: u32) -> Result<Hook, DecodeError> {
    Ok(match number {
        hook::BIND4 => Hook::Bind4,
        hook::BIND6 => Hook::Bind6,
        hook::POST_BIND4 => Hook::PostBind4,
        hook::POST_BIND6 => Hook::PostBind6,
        hook::SETSOCKOPT => Hook::Setsockopt,
        hook::SOCK_RELEASE => Hook::SockRelease,
        hook::SYS_EXIT_BIND => Hook::SysExitBind,
        hook::SYS_EXIT_LISTEN => Hook::SysExitListen,
        hook::SYS_EXIT_CONNECT => Hook::SysExitConnect,
        hook::IO_URING_COMPLETE => Hook::IoUringComplete,
        hook::INET_SOCK_SET_STATE => Hook::InetSockSetState,
        hook::TCP_DESTROY_SOCK => Hook::TcpDestroySock,
        hook::SCHED_PROCESS_FORK => Hook::SchedProcessFork,
        hook::SCHED_PROCESS_EXEC => Hook::SchedProcessExec,
        hook::SCHED_PROCESS_EXIT => Hook::SchedProcessExit,
        hook::SIGNAL_GENERATE => Hook::SignalGenerate,
        hook::CGROUP_MKDIR => Hook::CgroupMkdir,
        hook::CGROUP_RMDIR => Hook::CgroupRmdir,
        hook::INET_BIND => Hook::InetBind,
        hook::INET6_BIND => Hook::Inet6Bind,
        hook::MPTCP_BIND => Hook::MptcpBind,
        hook::INET_CSK_LISTEN_START => Hook::InetCskListenStart,
        hook::TCP_V4_CONNECT => Hook::TcpV4Connect,
        hook::TCP_V6_CONNECT => Hook::TcpV6Connect,
        hook::INET_AUTOBIND => Hook::InetAutobind,
        hook::IP4_DATAGRAM_CONNECT => Hook::Ip4DatagramConnect,
        hook::IP6_DATAGRAM_CONNECT => Hook::Ip6DatagramConnect,
        hook::UDP_DISCONNECT => Hook::UdpDisconnect,
        hook::GUARD_BIND4 => Hook::GuardBind4,
        hook::GUARD_BIND6 => Hook::GuardBind6,
        hook::CHECK_BIND4 => Hook::CheckBind4,
        hook::CHECK_BIND6 => Hook::CheckBind6,
        hook::SOCKET_SETSOCKOPT => Hook::SocketSetsockopt,
        hook::GUARD_OPTION => Hook::GuardOption,
        unknown => return Err(DecodeError::Hook(unknown)),
    })
}
