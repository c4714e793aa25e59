/*
 * uv_poll_init makes what it is given non-blocking, for everybody who has it. A pipe or terminal may be somebody else's too, so the loop
 * gets an epoll of our own that watches it.
 */
#ifndef PASSFD_INNER_EPOLL_H
#define PASSFD_INNER_EPOLL_H

#include <stdbool.h>

/* `inner` becomes the caller's epoll that watches the borrowed `fd`, or -1 if that needs none: it is a socket, or non-blocking. */
int inner_epoll_create(int fd, bool reads, int *inner);

/* `interest`: READABLE, WRITABLE or both. */
int inner_epoll_interest(int inner, int fd, int interest);

/* What libuv would have said of `fd` itself: the events, or -1 for an error. */
int inner_epoll_events(int inner, int interest);

#endif
