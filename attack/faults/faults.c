/*
 * For LD_PRELOAD: calls that the shim makes fail, or read and write less than they were asked to. The orders stand in a file that the attack
 * writes too (FAULTS): struct orders. Only calls from the shim's code count, because Node ends if some of its own calls fail.
 *
 * attack/faults/functions.ts has the same table, in the same order.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum {
	ACCEPT4, BIND, CALLOC, CLOSE, CONNECT, EPOLL_CREATE1, EPOLL_CTL, EPOLL_WAIT, FCHMOD, FCNTL, FLOCK, FSTAT, FSTATFS, FTRUNCATE, GETPEERNAME, GETRLIMIT,
	GETSOCKNAME, GETSOCKOPT, IF_INDEXTONAME, IF_NAMETOINDEX, IOCTL, ISATTY, LISTEN, MADVISE, MALLOC, MEMFD_CREATE, MMAP, OPEN, PIPE2, POLL, PRCTL, PREADV2,
	PTHREAD_ATTR_INIT, PTHREAD_CREATE, PWRITEV2, READ, READLINK, REALLOC, RECV, RECVMSG, SBRK, SEND, SENDMSG, SETSOCKOPT, SHUTDOWN, SOCKET, SOCKETPAIR, STATX,
	SYSCALL, TCGETATTR, WAITID, WRITE,
	NONE = -1,
	MOST = 64, /* functions */
	SITES = 256,
	KILLS = -1
};

/* A place in the shim that calls one of these functions: the address to which the call returns, from the beginning of the shim on. */
struct site {
	_Atomic uint32_t at; /* 0: free */
	_Atomic int32_t hits; /* as many of its calls have failed */
};

struct orders {
	int32_t which; /* of the functions above; NONE: all work */
	int32_t first; /* the call that fails first, from 1 on */
	int32_t times; /* as many calls fail */
	int32_t error; /* an errno; KILLS: the process is killed in place of the call; 0: no more than `limit` bytes are read or written */
	int32_t limit;
	_Atomic int32_t hits; /* as many have failed */
	_Atomic int32_t calls[MOST]; /* of each function, since the orders were written */
	struct site sites[SITES]; /* from the beginning on */
};

static struct orders *orders;
/* Where the shim is mapped, and its code. */
static uintptr_t shim, low, high;

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("FAULTS");
	int fd = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
	void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *orders, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map != MAP_FAILED)
		orders = map;
	if (fd >= 0)
		close(fd);
}

static int find_code(struct dl_phdr_info *object, size_t size, void *given)
{
	(void) size;
	(void) given;
	if (strstr(object->dlpi_name, "passfd") == NULL || strstr(object->dlpi_name, ".node") == NULL)
		return 0;
	for (int at = 0; at < object->dlpi_phnum; at++) {
		const ElfW(Phdr) *part = &object->dlpi_phdr[at];
		if (part->p_type != PT_LOAD || !(part->p_flags & PF_X))
			continue;
		shim = object->dlpi_addr;
		low = shim + part->p_vaddr;
		high = low + part->p_memsz;
	}
	return 1;
}

/* Node loads the shim by it. */
void *dlopen(const char *name, int flags)
{
	static void *(*real)(const char *, int);
	if (real == NULL)
		real = (void *(*)(const char *, int)) dlsym(RTLD_NEXT, "dlopen");
	void *handle = real(name, flags);
	if (handle != NULL && high == 0)
		dl_iterate_phdr(find_code, NULL);
	return handle;
}

static int is_ours(void *caller)
{
	uintptr_t at = (uintptr_t) caller;
	return orders != NULL && at >= low && at < high;
}

static struct site *site_of(void *caller)
{
	uint32_t at = (uint32_t) ((uintptr_t) caller - shim);
	for (uint32_t place = at * 2654435761u >> 24, tries = 0; tries < SITES; place = (place + 1) % SITES, tries++) {
		uint32_t there = 0;
		if (atomic_compare_exchange_strong(&orders->sites[place].at, &there, at) || there == at)
			return &orders->sites[place];
	}
	return NULL;
}

static int is_hit(int which, void *caller)
{
	if (!is_ours(caller))
		return 0;
	struct site *site = (uintptr_t) caller == low ? NULL : site_of(caller);
	int32_t call = atomic_fetch_add(&orders->calls[which], 1) + 1;
	if (orders->which != which || call < orders->first || call - orders->first >= orders->times)
		return 0;
	atomic_fetch_add(&orders->hits, 1);
	if (site != NULL)
		atomic_fetch_add(&site->hits, 1);
	return 1;
}

/* Sets errno if the call is to fail. */
static int fails(int which, void *caller)
{
	if (orders == NULL || (orders->error == 0 && orders->which == which) || !is_hit(which, caller))
		return 0;
	if (orders->error == KILLS)
		kill(getpid(), SIGKILL);
	errno = orders->error;
	return 1;
}

static int is_stream(int fd)
{
	static __typeof__(&getsockopt) real;
	if (real == NULL)
		real = (__typeof__(&getsockopt)) dlsym(RTLD_NEXT, "getsockopt");
	int type = 0, kept = errno;
	socklen_t length = sizeof type;
	int is = real(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0 || type == SOCK_STREAM;
	errno = kept;
	return is;
}

/* How many of `length` bytes this call may read or write. */
static size_t allowed(int which, void *caller, int fd, size_t length)
{
	if (orders == NULL || orders->error != 0 || orders->which != which || !is_ours(caller) || !is_stream(fd))
		return length;
	if (length <= (size_t) orders->limit || !is_hit(which, caller))
		return length;
	return orders->limit;
}

/* Copies as many of the vectors to `cut` as have `length` bytes. */
static size_t cut_vectors(const struct iovec *given, size_t count, size_t length, struct iovec cut[], size_t most)
{
	size_t at = 0;
	for (; at < count && at < most && length > 0; at++) {
		cut[at] = given[at];
		if (cut[at].iov_len > length)
			cut[at].iov_len = length;
		length -= cut[at].iov_len;
	}
	return at;
}

static size_t total(const struct iovec *vectors, size_t count)
{
	size_t sum = 0;
	for (size_t at = 0; at < count; at++)
		sum += vectors[at].iov_len;
	return sum;
}

#define CALLER __builtin_return_address(0)
#define REAL(name) \
	static __typeof__(&name) real; \
	if (real == NULL) \
		real = (__typeof__(&name)) dlsym(RTLD_NEXT, #name)
#define WRAP_AS(which, result, failed, name, parameters, arguments) \
	result name parameters \
	{ \
		REAL(name); \
		return fails(which, CALLER) ? failed : real arguments; \
	}
#define WRAP(which, result, name, parameters, arguments) WRAP_AS(which, result, -1, name, parameters, arguments)

WRAP(ACCEPT4, int, accept4, (int fd, struct sockaddr *name, socklen_t *length, int flags), (fd, name, length, flags))
WRAP(BIND, int, bind, (int fd, const struct sockaddr *name, socklen_t length), (fd, name, length))
WRAP(CONNECT, int, connect, (int fd, const struct sockaddr *name, socklen_t length), (fd, name, length))
WRAP(EPOLL_CREATE1, int, epoll_create1, (int flags), (flags))
WRAP(EPOLL_WAIT, int, epoll_wait, (int set, struct epoll_event *events, int most, int timeout), (set, events, most, timeout))
WRAP(FCHMOD, int, fchmod, (int fd, mode_t mode), (fd, mode))
WRAP(FLOCK, int, flock, (int fd, int operation), (fd, operation))
WRAP(FSTAT, int, fstat, (int fd, struct stat *status), (fd, status))
WRAP(FSTAT, int, fstat64, (int fd, struct stat64 *status), (fd, status))
WRAP(FSTATFS, int, fstatfs64, (int fd, struct statfs64 *status), (fd, status))
WRAP(FTRUNCATE, int, ftruncate, (int fd, off_t length), (fd, length))
WRAP(FTRUNCATE, int, ftruncate64, (int fd, off64_t length), (fd, length))
WRAP(GETPEERNAME, int, getpeername, (int fd, struct sockaddr *name, socklen_t *length), (fd, name, length))
WRAP(GETRLIMIT, int, getrlimit64, (__rlimit_resource_t which, struct rlimit64 *limit), (which, limit))
WRAP(GETSOCKNAME, int, getsockname, (int fd, struct sockaddr *name, socklen_t *length), (fd, name, length))
WRAP(GETSOCKOPT, int, getsockopt, (int fd, int level, int name, void *value, socklen_t *length), (fd, level, name, value, length))
WRAP(ISATTY, int, isatty, (int fd), (fd))
WRAP(LISTEN, int, listen, (int fd, int backlog), (fd, backlog))
WRAP(MADVISE, int, madvise, (void *at, size_t length, int advice), (at, length, advice))
WRAP(MEMFD_CREATE, int, memfd_create, (const char *name, unsigned int flags), (name, flags))
WRAP(PIPE2, int, pipe2, (int ends[2], int flags), (ends, flags))
WRAP(POLL, int, poll, (struct pollfd *set, nfds_t count, int timeout), (set, count, timeout))
WRAP(READLINK, ssize_t, readlink, (const char *path, char *target, size_t room), (path, target, room))
WRAP(SETSOCKOPT, int, setsockopt, (int fd, int level, int name, const void *value, socklen_t length), (fd, level, name, value, length))
WRAP(SHUTDOWN, int, shutdown, (int fd, int how), (fd, how))
WRAP(SOCKET, int, socket, (int domain, int type, int protocol), (domain, type, protocol))
WRAP(SOCKETPAIR, int, socketpair, (int domain, int type, int protocol, int ends[2]), (domain, type, protocol, ends))
WRAP(STATX, int, statx, (int folder, const char *path, int flags, unsigned int mask, struct statx *status), (folder, path, flags, mask, status))
WRAP(TCGETATTR, int, tcgetattr, (int fd, struct termios *settings), (fd, settings))
WRAP(WAITID, int, waitid, (idtype_t type, id_t id, siginfo_t *info, int options), (type, id, info, options))

WRAP_AS(IF_INDEXTONAME, char *, NULL, if_indextoname, (unsigned int index, char name[IF_NAMESIZE]), (index, name))
WRAP_AS(IF_NAMETOINDEX, unsigned int, 0, if_nametoindex, (const char *name), (name))
WRAP_AS(SBRK, void *, (void *) -1, sbrk, (intptr_t more), (more))
WRAP_AS(PTHREAD_ATTR_INIT, int, errno, pthread_attr_init, (pthread_attr_t *settings), (settings))

/* libuv asks so whether a number can be watched, in uv_poll_init(), which the shim calls. */
int epoll_ctl(int set, int operation, int fd, struct epoll_event *event)
{
	REAL(epoll_ctl);
	void *caller = operation == EPOLL_CTL_ADD && event->data.fd == -1 ? (void *) low : CALLER; /* no place in the shim */
	return fails(EPOLL_CTL, caller) ? -1 : real(set, operation, fd, event);
}

/* close(2): the number is free even if the call fails. */
int close(int fd)
{
	REAL(close);
	int result = real(fd);
	return result == 0 && fails(CLOSE, CALLER) ? -1 : result;
}

#define VARIADIC(which, result, name, first, names, last) \
	result name(first, ...) \
	{ \
		static result (*real)(first, ...); \
		if (real == NULL) \
			real = (result (*)(first, ...)) dlsym(RTLD_NEXT, #name); \
		va_list list; \
		va_start(list, last); \
		void *argument = va_arg(list, void *); \
		va_end(list); \
		return fails(which, CALLER) ? -1 : real names; \
	}
#define COMMA ,
VARIADIC(FCNTL, int, fcntl, int fd COMMA int command, (fd COMMA command COMMA argument), command)
VARIADIC(FCNTL, int, fcntl64, int fd COMMA int command, (fd COMMA command COMMA argument), command)
VARIADIC(IOCTL, int, ioctl, int fd COMMA unsigned long request, (fd COMMA request COMMA argument), request)
VARIADIC(OPEN, int, open64, const char *path COMMA int flags, (path COMMA flags COMMA argument), flags)

int prctl(int option, ...)
{
	static int (*real)(int, ...);
	if (real == NULL)
		real = (int (*)(int, ...)) dlsym(RTLD_NEXT, "prctl");
	va_list list;
	va_start(list, option);
	unsigned long a = va_arg(list, unsigned long), b = va_arg(list, unsigned long), c = va_arg(list, unsigned long), d = va_arg(list, unsigned long);
	va_end(list);
	return fails(PRCTL, CALLER) ? -1 : real(option, a, b, c, d);
}

long syscall(long number, ...)
{
	static long (*real)(long, ...);
	if (real == NULL)
		real = (long (*)(long, ...)) dlsym(RTLD_NEXT, "syscall");
	va_list list;
	va_start(list, number);
	long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long), d = va_arg(list, long), e = va_arg(list, long), f = va_arg(list, long);
	va_end(list);
	return fails(SYSCALL, CALLER) ? -1 : real(number, a, b, c, d, e, f);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *settings, void *(*run)(void *), void *given)
{
	REAL(pthread_create);
	return fails(PTHREAD_CREATE, CALLER) ? errno : real(thread, settings, run, given);
}

static void *map(void *caller, void *at, size_t length, int protection, int flags, int fd, off64_t offset)
{
	REAL(mmap64);
	return fails(MMAP, caller) ? MAP_FAILED : real(at, length, protection, flags, fd, offset);
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
	return map(CALLER, at, length, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset)
{
	return map(CALLER, at, length, protection, flags, fd, offset);
}

/* dlsym(3) allocates, too. */
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);

void *malloc(size_t size)
{
	return fails(MALLOC, CALLER) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	return fails(CALLOC, CALLER) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *block, size_t size)
{
	return fails(REALLOC, CALLER) ? NULL : __libc_realloc(block, size);
}

#define PLAIN(which, name, parameters, arguments) \
	ssize_t name parameters \
	{ \
		REAL(name); \
		if (fails(which, CALLER)) \
			return -1; \
		length = allowed(which, CALLER, fd, length); \
		return real arguments; \
	}
PLAIN(READ, read, (int fd, void *bytes, size_t length), (fd, bytes, length))
PLAIN(WRITE, write, (int fd, const void *bytes, size_t length), (fd, bytes, length))
PLAIN(RECV, recv, (int fd, void *bytes, size_t length, int flags), (fd, bytes, length, flags))
PLAIN(SEND, send, (int fd, const void *bytes, size_t length, int flags), (fd, bytes, length, flags))

enum { VECTORS = 1024 };

#define MESSAGE(which, name, type) \
	ssize_t name(int fd, type *message, int flags) \
	{ \
		REAL(name); \
		if (fails(which, CALLER)) \
			return -1; \
		size_t length = total(message->msg_iov, message->msg_iovlen), most = allowed(which, CALLER, fd, length); \
		if (most == length) \
			return real(fd, message, flags); \
		struct iovec cut[VECTORS]; \
		struct msghdr shorter = *message; \
		shorter.msg_iovlen = cut_vectors(message->msg_iov, message->msg_iovlen, most, cut, VECTORS); \
		shorter.msg_iov = cut; \
		ssize_t result = real(fd, &shorter, flags); \
		GIVE_BACK(message, shorter); \
		return result; \
	}
#define GIVE_BACK(message, shorter) \
	(message->msg_controllen = shorter.msg_controllen, message->msg_flags = shorter.msg_flags, message->msg_namelen = shorter.msg_namelen)
MESSAGE(RECVMSG, recvmsg, struct msghdr)
#undef GIVE_BACK
#define GIVE_BACK(message, shorter) ((void) 0)
MESSAGE(SENDMSG, sendmsg, const struct msghdr)

#define VECTORED(which, name) \
	ssize_t name(int fd, const struct iovec *vectors, int count, off64_t offset, int flags) \
	{ \
		REAL(name); \
		if (fails(which, CALLER)) \
			return -1; \
		size_t length = total(vectors, count), most = allowed(which, CALLER, fd, length); \
		struct iovec cut[VECTORS]; \
		if (most < length) { \
			count = cut_vectors(vectors, count, most, cut, VECTORS); \
			vectors = cut; \
		} \
		return real(fd, vectors, count, offset, flags); \
	}
VECTORED(PREADV2, preadv64v2)
VECTORED(PWRITEV2, pwritev64v2)
