/* Readiness: watchers by id (>= 1) on the environment's loop. -EBADF stands for an id that there is not. */
#ifndef PASSFD_WATCHER_H
#define PASSFD_WATCHER_H

#include "environment.h"

/* Borrows `fd`, which must stay open until unwatch. Returns the id. */
int watcher_watch(struct environment *environment, int fd, bool reads);
int watcher_unwatch(struct environment *environment, int id);
int watcher_interest(struct environment *environment, int id, int events);
int watcher_keep_alive(struct environment *environment, int id, bool on);

/* `reference` keeps the memory and is the watcher's if 0 is returned; NULL ends the target. */
int watcher_target(struct environment *environment, int id, napi_ref reference, uint8_t *bytes, size_t length);

/* One read into the results. The descriptors that come are held before anybody sees them. */
int watcher_receive(struct environment *environment, int id);

/* Reads what is there without waiting for a wake-up, and tells it. False: there is nothing, or nobody wants it now. */
bool watcher_read_now(struct environment *environment, int id);

/* A descriptor is about to be closed although it is watched: its id remains, but tells nothing any more. */
void watcher_forget(struct environment *environment, int fd);

void watcher_end_all(struct environment *environment);

#endif
