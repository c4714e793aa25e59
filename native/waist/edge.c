/* Sockets whose news are waited for together. */
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>

#include "os.h"

enum { ENDED = EPOLLRDHUP | EPOLLHUP | EPOLLERR };
enum { EVENTS = 128 }; /* told by one system call; the set stays readable while there are more */

int os_edge_set(void)
{
	int set = epoll_create1(EPOLL_CLOEXEC);
	if (set < 0)
		return -errno;
	/* Nobody else has it. A watcher leaves what doesn't wait as it is. */
	if (fcntl(set, F_SETFL, O_NONBLOCK) < 0) {
		int error = -errno;
		os_close(set);
		return error;
	}
	return set;
}

int os_edge_add(int set, int fd)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.fd = fd};
	return epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int os_edge_add_end(int set, int fd)
{
	struct epoll_event event = {.events = EPOLLET, .data.fd = fd}; /* EPOLLHUP and EPOLLERR are always reported */
	return epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int os_edge_remove(int set, int fd)
{
	return epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL) < 0 ? -errno : 0;
}

int os_edge_ready(int set, int32_t *fds, size_t most)
{
	struct epoll_event events[EVENTS];
	int count;
	if (most == 0)
		return -EINVAL;
	do {
		count = epoll_wait(set, events, most < EVENTS ? (int) most : EVENTS, 0);
	} while (count < 0 && errno == EINTR);
	for (int i = 0; i < count; i++)
		fds[i] = (events[i].events & ENDED) != 0 ? ~events[i].data.fd : events[i].data.fd;
	return count < 0 ? -errno : count;
}
