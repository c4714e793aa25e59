/* Memory as ArrayBuffers. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "function.h"
#include "../waist/os.h"

enum { MAX_NAME = 249 }; /* memfd_create(2) */

/* Node 20's largest buffer. It would call on_collected itself for a larger one, and throw. */
static const int64_t MAX_MAPPING = INT64_C(1) << 32;

FUNCTION(memfd)
{
	char name[MAX_NAME + 2];
	size_t length;
	int64_t size;
	CHECK(napi_get_value_string_utf8(environment->env, argument[0], name, sizeof name, &length));
	CHECK(napi_get_value_int64(environment->env, argument[1], &size));
	if (length > MAX_NAME || strlen(name) != length || size < 0)
		return -EINVAL;
	return held_take(&environment->held, os_memfd(name, size));
}

FUNCTION_OF_TWO(set_mode, fd, int, mode, os_chmod(fd, mode))
FUNCTION_OF_INT(seals, fd, os_seals(fd))
FUNCTION_OF_TWO(seal, fd, int, seals, os_seal(fd, seals))

struct mapping {
	void *address;
	size_t size;
};

static void on_collected(napi_env env, void *data, void *hint)
{
	struct mapping *mapping = hint;
	(void) env;
	(void) data;
	os_unmap(mapping->address, mapping->size);
	free(mapping);
}

static int map_into(struct environment *environment, int fd, size_t size, bool writable, napi_value holder)
{
	napi_value buffer = NULL;
	struct mapping *mapping = malloc(sizeof *mapping);
	if (mapping == NULL)
		return -ENOMEM;
	mapping->size = size;
	int error = os_map(fd, size, writable, &mapping->address);
	if (error == 0
		&& napi_create_external_arraybuffer(environment->env, mapping->address, size, on_collected, mapping, &buffer)
			!= napi_ok) {
		os_unmap(mapping->address, size);
		error = -ENOTSUP; /* a runtime that has its own memory only (Electron) */
	}
	if (error < 0) {
		free(mapping);
		return error;
	}
	CHECK(napi_set_element(environment->env, holder, 0, buffer));
	return 0;
}

FUNCTION(map)
{
	int fd;
	int64_t size;
	bool writable;
	TRY(read_int(environment, argument[0], &fd));
	CHECK(napi_get_value_int64(environment->env, argument[1], &size));
	TRY(read_bool(environment, argument[2], &writable));
	if (size <= 0 || (uint64_t) size > SIZE_MAX)
		return -ERANGE;
	if (size > MAX_MAPPING)
		return -EFBIG;
	return map_into(environment, fd, (size_t) size, writable, argument[3]);
}

/* The memory goes when the last ArrayBuffer over it does; this one is empty from now on. */
FUNCTION(unmap)
{
	CHECK(napi_detach_arraybuffer(environment->env, argument[0]));
	return 0;
}

const struct function memory_functions[] = {
	{"memfd", call_memfd}, {"setMode", call_set_mode}, {"seals", call_seals}, {"seal", call_seal}, {"map", call_map}, {"unmap", call_unmap},
	{NULL, NULL}
};
