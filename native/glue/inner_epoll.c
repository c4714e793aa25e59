#include "inner_epoll.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#include "../waist/os.h"
#include "environment.h"

int inner_epoll_create(int fd, bool reads, int *inner)
{
	struct stat status;
	struct epoll_event nothing = {.events = 0};
	int flags = fcntl(fd, F_GETFL);
	*inner = -1;
	if (flags < 0 || fstat(fd, &status) < 0)
		return -errno;
	if (reads || (flags & O_NONBLOCK) != 0 || S_ISSOCK(status.st_mode))
		return 0;
	int made = epoll_create1(EPOLL_CLOEXEC);
	if (made < 0)
		return -errno;
	if (epoll_ctl(made, EPOLL_CTL_ADD, fd, &nothing) < 0) {
		int error = -errno;
		os_close(made);
		return error;
	}
	*inner = made;
	return 0;
}

int inner_epoll_interest(int inner, int fd, int interest)
{
	struct epoll_event event = {
		.events = ((interest & READABLE) != 0 ? EPOLLIN : 0u) | ((interest & WRITABLE) != 0 ? EPOLLOUT : 0u)
	};
	return epoll_ctl(inner, EPOLL_CTL_MOD, fd, &event) < 0 ? -errno : 0;
}

int inner_epoll_events(int inner, int interest)
{
	struct epoll_event event;
	if (epoll_wait(inner, &event, 1, 0) != 1)
		return 0;
	if ((event.events & EPOLLERR) != 0)
		return -1;
	int events = ((event.events & EPOLLIN) != 0 ? READABLE : 0) | ((event.events & EPOLLOUT) != 0 ? WRITABLE : 0);
	return ((event.events & EPOLLHUP) != 0 ? READABLE | WRITABLE : events) & interest;
}
