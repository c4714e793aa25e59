/* How a function of the `Native` interface is written, and the tables of them that addon.c registers. */
#ifndef PASSFD_FUNCTION_H
#define PASSFD_FUNCTION_H

#include <node_api.h>
#include <stddef.h>

#include "argument.h"
#include "environment.h"

struct function {
	const char *name;
	napi_callback call;
};

/* Each ends with a NULL name. */
extern const struct function own_functions[], socket_functions[], watch_functions[], message_functions[], memory_functions[],
	accept_functions[];

typedef int body(struct environment *environment, const napi_value *argument);

/* Calls `body` with the arguments; its result is a number, or THREW. */
napi_value call(napi_env env, napi_callback_info info, body *body);

/* A function that JavaScript may call. It returns its result, -errno or THREW. */
#define FUNCTION(name)                                                                     \
	static body name;                                                                  \
	static napi_value call_##name(napi_env env, napi_callback_info info)                   \
	{                                                                                      \
		return call(env, info, name);                                                      \
	}                                                                                      \
	static int name(struct environment *environment, const napi_value *argument)

/* Those whose arguments are one or two numbers, or a number and a truth value. */
#define FUNCTION_OF_INT(name, first, expression)                                           \
	FUNCTION(name)                                                                         \
	{                                                                                      \
		int first;                                                                         \
		TRY(read_int(environment, argument[0], &first));                                   \
		return expression;                                                                 \
	}
#define FUNCTION_OF_TWO(name, first, type, second, expression)                             \
	FUNCTION(name)                                                                         \
	{                                                                                      \
		int first;                                                                         \
		type second;                                                                       \
		TRY(read_int(environment, argument[0], &first));                                   \
		TRY(read_##type(environment, argument[1], &second));                               \
		return expression;                                                                 \
	}

#endif
