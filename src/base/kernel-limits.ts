/** Numbers that the kernel or the protocol fixes. */

/** The kernel's limit of descriptors in one `sendmsg` (`SCM_MAX_FD`, unix(7)); the protocol's for a frame, and for those ahead of their frames. */
export const MAX_RIGHTS = 253
/** The deepest nesting of a value. */
export const MAX_DEPTH = 512
