#include "spinning.h"

#include <sched.h>

static void on_spin(uv_idle_t *spinning)
{
	struct environment *environment = spinning->data;
	if (uv_hrtime() >= environment->spin_until)
		uv_idle_stop(spinning);
	else
		sched_yield(); /* the one that we wait for may have been put on this core */
}

/* A loop with an idle handle that is active asks epoll without waiting, and serves everybody else in each round (uv_idle_t). */
int spinning_prolong(struct environment *environment, int microseconds)
{
	uint64_t until = uv_hrtime() + (uint64_t) (microseconds > 0 ? microseconds : 0) * 1000;
	if (until > environment->spin_until)
		environment->spin_until = until;
	return uv_idle_start(&environment->spinning, on_spin);
}

static void on_spinning_closed(uv_handle_t *spinning)
{
	environment_handle_closed(spinning->data);
}

void spinning_create(struct environment *environment)
{
	uv_idle_init(environment->loop, &environment->spinning);
	uv_unref((uv_handle_t *) &environment->spinning);
	environment->spinning.data = environment;
	environment->open_handles++;
}

void spinning_end(struct environment *environment)
{
	uv_close((uv_handle_t *) &environment->spinning, on_spinning_closed);
}
