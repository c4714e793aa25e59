/* Descriptors of any kind: closing them, copying them, and what limits them. */
#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/major.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel.h"
#include "result.h"

#ifndef SYS_close_range /* Linux 5.9; the same number everywhere */
#define SYS_close_range 436
#endif

int os_close(int fd)
{
	/* On Linux the number is free after EINTR too: closing again would close somebody else's file (close(2)). */
	return close(fd) < 0 && errno != EINTR ? -errno : 0;
}

int os_set_cloexec(int fd)
{
	int flags = fcntl(fd, F_GETFD);
	if (flags < 0)
		return -errno;
	return (flags & FD_CLOEXEC) != 0 ? 0 : outcome(fcntl(fd, F_SETFD, flags | FD_CLOEXEC));
}

int os_dup(int fd)
{
	return outcome(fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
}

int os_pipe(int32_t ends[2])
{
	return outcome(pipe2(ends, O_CLOEXEC));
}

int os_close_range(int first, size_t count)
{
	int closed = 0;
	/* Linux 5.9; by its number, as the C library may be older. It tells no errors, and skips what is not open. */
	if (count > 1 && syscall(SYS_close_range, first, first + (int) count - 1, 0) == 0)
		return (int) count;
	for (size_t i = 0; i < count; i++)
		closed += os_close(first + (int) i) != -EBADF;
	return closed;
}

bool os_closes_at_once(int fd)
{
	enum { MEMORY_NULL = 3, MEMORY_ZERO = 5, MEMORY_FULL = 7 };
	struct statx status;
	if (type_of(fd, &status) < 0)
		return false;
	if (!S_ISCHR(status.stx_mode) || status.stx_rdev_major != MEM_MAJOR)
		return false;
	switch (status.stx_rdev_minor) {
	case MEMORY_NULL:
	case MEMORY_ZERO:
	case MEMORY_FULL:
		return true;
	default: /* random(4) can be polled */
		return false;
	}
}

int os_pidfd(int pid)
{
	return outcome(syscall(SYS_pidfd_open, pid, 0));
}

int os_lock(int fd, bool on)
{
	return outcome(flock(fd, (on ? LOCK_EX : LOCK_UN) | LOCK_NB));
}

enum { USUAL_LIMIT = 1024 };

int os_limit(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0) /* a seccomp filter may forbid it */
		return USUAL_LIMIT;
	return limit.rlim_cur > INT_MAX ? INT_MAX : (int) limit.rlim_cur;
}
