//! The program of the pause image: process 1 of a pod's namespaces. It holds the namespaces open, reaps orphans when the
//! pod shares its process namespace, and leaves on SIGTERM or SIGINT. No libc, no heap, no signal handlers: the three
//! signals are blocked and waited for, which the kernel allows even for process 1 (a blocked signal is never dropped).
#![no_std]
#![no_main]

use core::arch::asm;

const SIGINT: u64 = 2;
const SIGTERM: u64 = 15;
const SIGCHLD: u64 = 17;

#[cfg(target_arch = "x86_64")]
mod number {
    pub const SIGPROCMASK: usize = 14;
    pub const SIGTIMEDWAIT: usize = 128;
    pub const WAIT4: usize = 61;
    pub const EXIT: usize = 60;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const SIGPROCMASK: usize = 135;
    pub const SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
    pub const EXIT: usize = 93;
}

#[cfg(target_arch = "x86_64")]
unsafe fn syscall(n: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let r: isize;
    unsafe {
        asm!("syscall", inlateout("rax") n as isize => r, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             lateout("rcx") _, lateout("r11") _);
    }
    r
}
#[cfg(target_arch = "aarch64")]
unsafe fn syscall(n: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let r: isize;
    unsafe {
        asm!("svc 0", in("x8") n, inlateout("x0") a as isize => r, in("x1") b, in("x2") c, in("x3") d);
    }
    r
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn _start() -> ! {
    let set: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);
    let set_at = &raw const set as usize;
    unsafe {
        syscall(number::SIGPROCMASK, 0, set_at, 0, 8);
        loop {
            let got = syscall(number::SIGTIMEDWAIT, set_at, 0, 0, 8);
            if got == SIGINT as isize || got == SIGTERM as isize {
                syscall(number::EXIT, 0, 0, 0, 0);
            }
            // WNOHANG: until no exited child is left.
            while syscall(number::WAIT4, usize::MAX, 0, 1, 0) > 0 {}
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
