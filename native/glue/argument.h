/* Reads the arguments of a call from JavaScript: returns 0, THREW, or -EINVAL for a range that is not within. */
#ifndef PASSFD_ARGUMENT_H
#define PASSFD_ARGUMENT_H

#include <limits.h>

#include "environment.h"

enum { THREW = INT_MIN }; /* a JavaScript exception is pending */

/* A napi call that fails was given a wrong argument. */
#define CHECK(call)                                         \
	do {                                                    \
		if ((call) != napi_ok)                              \
			return wrong_argument(environment->env, NULL);  \
	} while (0)

/* Passes THREW or -errno on. */
#define TRY(call)                                           \
	do {                                                    \
		int problem = (call);                               \
		if (problem < 0)                                    \
			return problem;                                 \
	} while (0)

/* A typed array's memory: valid during the call, or as long as there is a reference to the array. */
struct array {
	void *data;
	size_t length;
};

/* Throws a TypeError; without a message, with that of the napi call that failed. Returns THREW. */
int wrong_argument(napi_env env, const char *message);

int read_int(struct environment *environment, napi_value value, int *number);
int read_bool(struct environment *environment, napi_value value, bool *truth);
int read_array(struct environment *environment, napi_value value, napi_typedarray_type wanted, struct array *array);

/* Three arguments: bytes, start, end. */
int read_bytes(struct environment *environment, const napi_value *values, struct array *bytes);

/* Three arguments: fds, start, count. The array is not looked at if count is 0. */
int read_fds(struct environment *environment, const napi_value *values, struct array *fds);

#endif
