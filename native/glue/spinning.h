/* A loop that looks for events again and again instead of sleeping, for a while. */
#ifndef PASSFD_SPINNING_H
#define PASSFD_SPINNING_H

#include "environment.h"

void spinning_create(struct environment *environment);

/* For so long from now on, at least. */
int spinning_prolong(struct environment *environment, int microseconds);

void spinning_end(struct environment *environment);

#endif
