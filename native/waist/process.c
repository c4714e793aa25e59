/* Signals for one certain process, and children that nobody else waits for. */
#include <errno.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os.h"

#ifndef SYS_pidfd_send_signal /* Linux 5.1; the same number everywhere but on alpha */
#define SYS_pidfd_send_signal 424
#endif
#ifndef __WNOTHREAD
#define __WNOTHREAD 0x20000000
#endif

int os_signal(int pidfd, int number)
{
	return syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0) < 0 ? -errno : 0;
}

int os_is_reaper(void)
{
	int set = 0;
	if (syscall(SYS_gettid) != getpid())
		return 0;
	if (getpid() == 1)
		return 1;
	return prctl(PR_GET_CHILD_SUBREAPER, &set) == 0 && set != 0;
}

static int ended_child(idtype_t type, int pid, int flags)
{
	siginfo_t information = {.si_pid = 0};
	int result;
	do {
		/* What another thread has forked is that one's to wait for. */
		result = waitid(type, (id_t) pid, &information, WEXITED | WNOHANG | __WNOTHREAD | flags);
	} while (result < 0 && errno == EINTR);
	if (result < 0)
		return errno == ECHILD ? 0 : -errno;
	return information.si_pid;
}

int os_ended_child(void)
{
	return ended_child(P_ALL, 0, WNOWAIT);
}

int os_collect(int pid)
{
	return pid < 1 ? -EINVAL : ended_child(P_PID, pid, 0);
}
