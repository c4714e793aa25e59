/* The beginning and the end of an environment: with create(), and with the Node environment or the collection of its binding. */
#ifndef PASSFD_LIFECYCLE_H
#define PASSFD_LIFECYCLE_H

#include "environment.h"

/* An environment whose functions are to be properties of `binding`. NULL if it fails. */
struct environment *environment_create(napi_env env, napi_value binding);

#endif
