/* What the waist's files share: results of system calls, and options of sockets. */
#ifndef PASSFD_RESULT_H
#define PASSFD_RESULT_H

#include <errno.h>
#include <sys/socket.h>
#include <sys/types.h>

/* What a system call has returned, or -errno. */
static inline int outcome(ssize_t result)
{
	return result < 0 ? -errno : (int) result;
}

static inline int set_option(int fd, int level, int option, int value)
{
	return outcome(setsockopt(fd, level, option, &value, sizeof value));
}

static inline int get_option(int fd, int option)
{
	int value = 0;
	socklen_t size = sizeof value;
	return getsockopt(fd, SOL_SOCKET, option, &value, &size) < 0 ? -errno : value;
}

#endif
