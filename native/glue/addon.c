/* The module: it gives each evaluation of passfd a binding, with the functions of the `Native` interface in src/os/native.ts. */
#include "function.h"
#include "lifecycle.h"

/* The version of the package, which a test compares with package.json. */
#define SHIM_VERSION "0.1.0"

/* Each function keeps the binding, in whose environment it works, from being collected. */
static bool export_functions(napi_env env, napi_value binding, const struct function *functions, void *environment)
{
	for (; functions->name != NULL; functions++) {
		napi_value value;
		const char *name = functions->name;
		napi_property_descriptor property = {.utf8name = "binding", .value = binding, .attributes = napi_default};
		if (napi_create_function(env, name, NAPI_AUTO_LENGTH, functions->call, environment, &value) != napi_ok
			|| napi_define_properties(env, value, 1, &property) != napi_ok
			|| napi_set_named_property(env, binding, name, value) != napi_ok)
			return false;
	}
	return true;
}

/* Each evaluation of passfd calls it once, and so has an environment of its own. Returns the binding. */
static napi_value create(napi_env env, napi_callback_info info)
{
	napi_value binding;
	struct environment *environment;
	(void) info;
	if (napi_create_object(env, &binding) != napi_ok || (environment = environment_create(env, binding)) == NULL) {
		napi_throw_error(env, "ENOMEM", "ENOMEM: passfd has no memory for the state of this thread");
		return NULL;
	}
	bool exported = export_functions(env, binding, own_functions, environment)
		&& export_functions(env, binding, socket_functions, environment)
		&& export_functions(env, binding, watch_functions, environment)
		&& export_functions(env, binding, message_functions, environment)
		&& export_functions(env, binding, memory_functions, environment)
		&& export_functions(env, binding, accept_functions, environment);
	return exported ? binding : NULL;
}

/* The module is one for all who load this file in a Node environment; what src/os/load.ts compares is its version. */
NAPI_MODULE_INIT()
{
	napi_value version, function;
	bool exported = napi_create_string_utf8(env, SHIM_VERSION, NAPI_AUTO_LENGTH, &version) == napi_ok
		&& napi_set_named_property(env, exports, "version", version) == napi_ok
		&& napi_create_function(env, "create", NAPI_AUTO_LENGTH, create, NULL, &function) == napi_ok
		&& napi_set_named_property(env, exports, "create", function) == napi_ok;
	return exported ? exports : NULL;
}
