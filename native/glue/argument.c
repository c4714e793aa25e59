#include "argument.h"

#include <errno.h>

int wrong_argument(napi_env env, const char *message)
{
	const napi_extended_error_info *info;
	bool pending = false;
	if (message == NULL && napi_get_last_error_info(env, &info) == napi_ok)
		message = info->error_message;
	if (napi_is_exception_pending(env, &pending) == napi_ok && !pending)
		napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", message);
	return THREW;
}

int read_array(struct environment *environment, napi_value value, napi_typedarray_type wanted, struct array *array)
{
	napi_typedarray_type type;
	CHECK(napi_get_typedarray_info(environment->env, value, &type, &array->length, &array->data, NULL, NULL));
	if (type == wanted)
		return 0;
	return wrong_argument(environment->env, wanted == napi_uint8_array ? "Not a Uint8Array" : "Not an Int32Array");
}

int read_int(struct environment *environment, napi_value value, int *number)
{
	CHECK(napi_get_value_int32(environment->env, value, number));
	return 0;
}

int read_bool(struct environment *environment, napi_value value, bool *truth)
{
	CHECK(napi_get_value_bool(environment->env, value, truth));
	return 0;
}

int read_bytes(struct environment *environment, const napi_value *values, struct array *bytes)
{
	int64_t start, end;
	TRY(read_array(environment, values[0], napi_uint8_array, bytes));
	CHECK(napi_get_value_int64(environment->env, values[1], &start));
	CHECK(napi_get_value_int64(environment->env, values[2], &end));
	if (start < 0 || start > end || (uint64_t) end > bytes->length)
		return -EINVAL;
	bytes->data = (uint8_t *) bytes->data + start;
	bytes->length = (size_t) (end - start);
	return 0;
}

int read_fds(struct environment *environment, const napi_value *values, struct array *fds)
{
	int start, count;
	*fds = (struct array) {0};
	TRY(read_int(environment, values[1], &start));
	TRY(read_int(environment, values[2], &count));
	if (count == 0)
		return 0;
	TRY(read_array(environment, values[0], napi_int32_array, fds));
	if (start < 0 || count < 0 || (uint64_t) start + (uint64_t) count > fds->length)
		return -EINVAL;
	fds->data = (int32_t *) fds->data + start;
	fds->length = (size_t) count;
	return 0;
}
