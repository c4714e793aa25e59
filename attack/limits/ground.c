/*
 * What a pair of processes stands on, and can be taken from it: limits of a process, mounts, descriptors in flight, watches of epoll. Each line of stdin is a
 * command; each line of stdout answers one by an errno, or 0.
 *
 *   ground FOLDER UID   makes a mount namespace in which FOLDER is a small file system of that user, and prints whether it has quotas
 *     limit PID RESOURCE SOFT   sets the soft limit of a process, with the hard one as it is; -1: as high as that
 *     mount TYPE TARGET OPTIONS
 *     readonly TARGET YES
 *     umount TARGET
 *   hoard               uses up what the kernel counts by user
 *     flight COUNT      lets so many descriptors be in flight (unix(7), ETOOMANYREFS)
 *     watches COUNT     leaves so many watches of epoll (epoll(7), max_user_watches); -1: all
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { A_MESSAGE = 200, SETS = 20000 };

static int result_of(int outcome)
{
	return outcome < 0 ? errno : 0;
}

/* `*quota`: whether users have one. Kernels before 6.6, or without CONFIG_TMPFS_QUOTA, refuse that. */
static int make_ground(const char *folder, const char *user, int *quota)
{
	char options[200];
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return errno;
	for (*quota = 1; *quota >= 0; --*quota) {
		snprintf(options, sizeof options, "size=1m,nr_inodes=400,mode=755,uid=%s%s", user,
			*quota ? ",usrquota_block_hardlimit=512k,usrquota_inode_hardlimit=200" : "");
		if (mount("tmpfs", folder, "tmpfs", 0, options) == 0)
			return 0;
	}
	return errno;
}

static int set_limit(int pid, int resource, long long soft)
{
	struct rlimit limit;
	if (prlimit(pid, (__rlimit_resource_t) resource, NULL, &limit) < 0)
		return errno;
	limit.rlim_cur = soft < 0 || (rlim_t) soft > limit.rlim_max ? limit.rlim_max : (rlim_t) soft;
	return result_of(prlimit(pid, (__rlimit_resource_t) resource, &limit, NULL));
}

static int flight = -1; /* the other end of a socket in which descriptors wait */

static int set_flight(int count)
{
	int ends[2], fds[A_MESSAGE], result = 0;
	if (flight >= 0)
		close(flight);
	flight = -1;
	if (count == 0)
		return 0;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
		return errno;
	for (int i = 0; i < A_MESSAGE; i++)
		fds[i] = STDIN_FILENO;
	while (count > 0 && result == 0) {
		size_t some = count < A_MESSAGE ? (size_t) count : A_MESSAGE;
		char control[CMSG_SPACE(sizeof fds)] = {0}, byte = 0;
		struct iovec chunk = {&byte, 1};
		struct msghdr message = {.msg_iov = &chunk, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(some * sizeof(int))};
		struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(some * sizeof(int));
		memcpy(CMSG_DATA(rights), fds, some * sizeof(int));
		result = result_of((int) sendmsg(ends[0], &message, 0));
		count -= (int) some;
	}
	close(ends[0]);
	flight = ends[1];
	return result;
}

static int sets[SETS], made;

/* Each set watches the same events, under other numbers. */
static int set_watches(int left)
{
	static int numbers[SETS], opened;
	struct epoll_event event = {.events = 0};
	if (left < 0) {
		while (made > 0)
			close(sets[--made]);
		while (opened > 0)
			close(numbers[--opened]);
		return 0;
	}
	if (made == 0) {
		struct rlimit limit;
		getrlimit(RLIMIT_NOFILE, &limit);
		int half = (int) (limit.rlim_cur / 2) - 10;
		for (opened = 0; opened < half && opened < SETS; opened++)
			if ((numbers[opened] = eventfd(0, EFD_CLOEXEC)) < 0)
				break;
	}
	for (int full = 0; !full && made < SETS;) {
		if ((sets[made] = epoll_create1(EPOLL_CLOEXEC)) < 0)
			return errno;
		made++;
		for (int i = 0; i < opened; i++)
			if (epoll_ctl(sets[made - 1], EPOLL_CTL_ADD, numbers[i], &event) < 0) {
				if (errno != ENOSPC)
					return errno;
				full = 1;
				break;
			}
	}
	for (int at = made - 1; left > 0 && at >= 0; at--)
		for (int i = 0; left > 0 && i < opened; i++)
			if (epoll_ctl(sets[at], EPOLL_CTL_DEL, numbers[i], &event) == 0)
				left--;
	return 0;
}

static int obey(char *line)
{
	char type[32], target[256], options[256];
	int pid, number;
	long long soft;
	if (sscanf(line, "limit %d %d %lld", &pid, &number, &soft) == 3)
		return set_limit(pid, number, soft);
	if (sscanf(line, "mount %31s %255s %255s", type, target, options) == 3)
		return result_of(mount("none", target, type, 0, options));
	if (sscanf(line, "readonly %255s %d", target, &number) == 2)
		return result_of(mount("none", target, NULL, (number ? MS_RDONLY : 0) | MS_BIND | MS_REMOUNT, NULL));
	if (sscanf(line, "umount %255s", target) == 1)
		return result_of(umount2(target, MNT_DETACH));
	if (sscanf(line, "flight %d", &number) == 1)
		return set_flight(number);
	if (sscanf(line, "watches %d", &number) == 1)
		return set_watches(number);
	return EINVAL;
}

int main(int count, char **arguments)
{
	char line[1024];
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (count == 4 && strcmp(arguments[1], "ground") == 0) {
		int quota = 0, error = make_ground(arguments[2], arguments[3], &quota);
		if (error != 0) {
			fprintf(stderr, "no mount namespace: %s\n", strerror(error));
			return 1;
		}
		printf("%d\n", quota);
	}
	while (fgets(line, sizeof line, stdin) != NULL)
		printf("%d\n", obey(line));
	return 0;
}
