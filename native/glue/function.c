#include "function.h"

#include <errno.h>

enum { MAX_ARGUMENTS = 8 };

napi_value call(napi_env env, napi_callback_info info, body *body)
{
	napi_value argument[MAX_ARGUMENTS], value; /* those not given are undefined */
	size_t count = MAX_ARGUMENTS;
	void *environment;
	if (napi_get_cb_info(env, info, &count, argument, NULL, &environment) != napi_ok)
		return NULL;
	int result = ((struct environment *) environment)->ending ? -EBADF : body(environment, argument);
	return result == THREW || napi_create_int32(env, result, &value) != napi_ok ? NULL : value;
}
