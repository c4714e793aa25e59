#include "turns.h"

#include <errno.h>
#include <limits.h>

/* Ends a turn: what has passed since the last one ended, without the sleep. */
static void end_turn(struct environment *environment)
{
	uint64_t now = uv_hrtime(), idle = uv_metrics_idle_time(environment->loop);
	uint64_t passed = now - environment->turn_since, slept = idle - environment->turn_idle;
	if (passed > slept && passed - slept > environment->longest_turn)
		environment->longest_turn = passed - slept;
	environment->turn_since = now;
	environment->turn_idle = idle;
}

/* Right before the loop looks for events, and may sleep. */
static void on_prepare(uv_prepare_t *turns)
{
	end_turn(turns->data);
}

int turns_longest(struct environment *environment)
{
	if (!uv_is_active((uv_handle_t *) &environment->turns)) {
		environment->turn_since = uv_hrtime();
		environment->turn_idle = uv_metrics_idle_time(environment->loop);
		return uv_prepare_start(&environment->turns, on_prepare);
	}
	end_turn(environment);
	uint64_t longest = environment->longest_turn / 1000;
	environment->longest_turn = 0;
	if (environment->turn_idle == 0)
		return -ENOTSUP;
	return longest > INT_MAX ? INT_MAX : (int) longest;
}

static void on_turns_closed(uv_handle_t *turns)
{
	environment_handle_closed(turns->data);
}

void turns_create(struct environment *environment)
{
	uv_prepare_init(environment->loop, &environment->turns);
	uv_unref((uv_handle_t *) &environment->turns);
	environment->turns.data = environment;
	environment->open_handles++;
}

void turns_end(struct environment *environment)
{
	uv_close((uv_handle_t *) &environment->turns, on_turns_closed);
}
