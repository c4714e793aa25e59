/* The event loop: watchers, and the memory where they put what they have read. */
#include <errno.h>

#include "../waist/os.h"
#include "function.h"
#include "spinning.h"
#include "turns.h"
#include "watcher.h"

/* What setup() was given lives as long as the binding: nothing here holds the realm that it came from. */
static int keep(struct environment *environment, const char *name, napi_value value)
{
	napi_value binding;
	napi_property_descriptor property = {.utf8name = name, .value = value, .attributes = napi_default};
	CHECK(napi_get_reference_value(environment->env, environment->binding, &binding));
	CHECK(napi_define_properties(environment->env, binding, 1, &property));
	return 0;
}

FUNCTION(setup)
{
	struct array area, results;
	int headroom;
	napi_valuetype type;
	napi_value resource, name;
	if (environment->dispatch_reference != NULL)
		return wrong_argument(environment->env, "setup() was called before");
	TRY(read_array(environment, argument[0], napi_uint8_array, &area));
	TRY(read_int(environment, argument[1], &headroom));
	TRY(read_array(environment, argument[2], napi_int32_array, &results));
	CHECK(napi_typeof(environment->env, argument[3], &type));
	if (headroom < 0 || (size_t) headroom >= area.length || results.length < RESULT_FIRST + 2 * OS_MAX_RIGHTS
		|| type != napi_function)
		return wrong_argument(environment->env, "setup(area, headroom, results, dispatch): too small, or not a function");
	CHECK(napi_create_object(environment->env, &resource));
	CHECK(napi_create_string_utf8(environment->env, "PASSFD", NAPI_AUTO_LENGTH, &name));
	CHECK(napi_async_init(environment->env, resource, name, &environment->context));
	TRY(keep(environment, "area", argument[0]));
	TRY(keep(environment, "results", argument[2]));
	TRY(keep(environment, "dispatch", argument[3]));
	CHECK(napi_create_reference(environment->env, argument[3], 0, &environment->dispatch_reference));
	environment->area = area.data;
	environment->area_length = area.length;
	environment->headroom = (size_t) headroom;
	environment->results = results.data;
	environment->results_length = results.length;
	return 0;
}

static int pin(struct environment *environment, napi_value value, napi_ref *reference)
{
	CHECK(napi_create_reference(environment->env, value, 1, reference));
	return 0;
}

FUNCTION_OF_INT(receive, id, watcher_receive(environment, id))
FUNCTION_OF_TWO(watch, fd, bool, reads, watcher_watch(environment, fd, reads))
FUNCTION_OF_TWO(interest, id, int, events, watcher_interest(environment, id, events))

/* As in src/os/heap.ts. */
enum { LARGE_TARGET = 16384 };

FUNCTION(target)
{
	int id;
	struct array bytes;
	napi_valuetype type;
	napi_ref reference;
	TRY(read_int(environment, argument[0], &id));
	CHECK(napi_typeof(environment->env, argument[1], &type));
	if (type == napi_null)
		return watcher_target(environment, id, NULL, NULL, 0);
	TRY(read_bytes(environment, argument + 1, &bytes));
	TRY(pin(environment, argument[1], &reference));
	int result = watcher_target(environment, id, reference, bytes.data, bytes.length);
	if (result < 0)
		CHECK(napi_delete_reference(environment->env, reference));
	else if (bytes.length >= LARGE_TARGET)
		environment->heap_pin = os_prepare_heap(environment->heap_pin, bytes.data, bytes.length);
	return result;
}

FUNCTION(release_heap)
{
	(void) argument;
	os_release_heap(environment->heap_pin);
	environment->heap_pin = NULL;
	return 0;
}

FUNCTION_OF_INT(unwatch, id, watcher_unwatch(environment, id))
FUNCTION_OF_INT(ref, id, watcher_keep_alive(environment, id, true))
FUNCTION_OF_INT(unref, id, watcher_keep_alive(environment, id, false))
FUNCTION_OF_TWO(spin, id, int, microseconds, spinning_prolong(&environment->spinning, id, microseconds))

FUNCTION(longest_turn)
{
	(void) argument;
	return turns_longest(environment);
}

const struct function watch_functions[] = {
	{"setup", call_setup}, {"watch", call_watch}, {"interest", call_interest}, {"target", call_target},
	{"receive", call_receive}, {"unwatch", call_unwatch}, {"ref", call_ref}, {"unref", call_unref}, {"spin", call_spin},
	{"longestTurn", call_longest_turn}, {"releaseHeap", call_release_heap}, {NULL, NULL}
};
