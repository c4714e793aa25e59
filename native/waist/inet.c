/* Listeners and who connects to them; addresses of the internet. */
#include "os.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "result.h"

/* accept(2) has no MSG_DONTWAIT, and anybody who shares the listener may have cleared the flag. */
static int never_waits(int fd)
{
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || ((flags & O_NONBLOCK) == 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0))
		return -errno;
	return 0;
}

int os_accept(int fd)
{
	int connection, error = never_waits(fd);
	if (error < 0)
		return error;
	do {
		connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	} while (connection < 0 && errno == EINTR);
	return outcome(connection);
}

union inet_address {
	struct sockaddr any; /* of AF_UNIX, too: then the rest of it is cut off */
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* Returns the length of the address. An IPv6 host may name its interface: fe80::1%eth0. */
static int inet_address(union inet_address *address, const char *host, int port)
{
	memset(address, 0, sizeof *address);
	if (port < 0 || port > UINT16_MAX)
		return -EINVAL;
	if (inet_pton(AF_INET, host, &address->v4.sin_addr) == 1) {
		address->v4.sin_family = AF_INET;
		address->v4.sin_port = htons((uint16_t) port);
		return sizeof address->v4;
	}
	char bare[INET6_ADDRSTRLEN];
	size_t length = strcspn(host, "%");
	if (length >= sizeof bare)
		return -EINVAL;
	memcpy(bare, host, length);
	bare[length] = 0;
	memset(address, 0, sizeof *address);
	if (inet_pton(AF_INET6, bare, &address->v6.sin6_addr) != 1)
		return -EINVAL;
	if (host[length] == '%' && (address->v6.sin6_scope_id = if_nametoindex(host + length + 1)) == 0)
		return -errno;
	address->v6.sin6_family = AF_INET6;
	address->v6.sin6_port = htons((uint16_t) port);
	return sizeof address->v6;
}

static int bind_inet(int fd, const union inet_address *address, int size, bool udp, int backlog, int flags)
{
	int error = 0;
	if (!udp)
		error = set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (error == 0 && address->any.sa_family == AF_INET6)
		error = set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, (flags & OS_IPV6_ONLY) != 0);
	if (error == 0 && flags & OS_REUSEPORT)
		error = set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	if (error == 0)
		error = outcome(bind(fd, &address->any, (socklen_t) size));
	if (error == 0 && !udp)
		error = os_listen(fd, backlog);
	/* Until here it was alone, or listen(2) would have failed: the kernel looks again at all that listen (inet_csk_listen_start). */
	if (error == 0 && flags & OS_REUSEPORT_LATER)
		error = set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	return error;
}

int os_bind_inet(bool udp, const char *host, int port, int backlog, int flags)
{
	union inet_address address;
	int size = inet_address(&address, host, port);
	if (size < 0)
		return size;
	int type = (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK;
	int fd = socket(address.any.sa_family, type, 0);
	if (fd < 0)
		return -errno;
	int error = bind_inet(fd, &address, size, udp, backlog, flags);
	if (error < 0)
		os_close(fd);
	return error < 0 ? error : fd;
}

int os_share_port(int fd)
{
	return set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
}

/* inet_ntop goes through sprintf, which is a good part of what accepting costs. */
static int put_v4(const uint8_t bytes[4], uint8_t *text)
{
	int length = 0;
	for (int i = 0; i < 4; i++) {
		uint8_t number = bytes[i];
		if (i > 0)
			text[length++] = '.';
		if (number >= 100)
			text[length++] = '0' + number / 100;
		if (number >= 10)
			text[length++] = '0' + number / 10 % 10;
		text[length++] = '0' + number % 10;
	}
	return length;
}

/* As Node writes it, without an end NUL; an IPv4 address in IPv6 form as plain IPv4. Returns its length, at most OS_ADDRESS - 1. */
static int put_text(const union inet_address *address, uint8_t *text, int *family, int *port)
{
	_Static_assert(INET6_ADDRSTRLEN + IF_NAMESIZE < OS_ADDRESS, "the longest is an address, %, and an interface");
	const struct in6_addr *v6 = &address->v6.sin6_addr;
	char *string = (char *) text;
	bool is_v6 = address->any.sa_family == AF_INET6;
	if (!is_v6 && address->any.sa_family != AF_INET)
		return -EAFNOSUPPORT;
	*port = ntohs(is_v6 ? address->v6.sin6_port : address->v4.sin_port);
	*family = 4;
	if (!is_v6)
		return put_v4((const uint8_t *) &address->v4.sin_addr, text);
	if (IN6_IS_ADDR_V4MAPPED(v6))
		return put_v4(v6->s6_addr + 12, text);
	*family = 6;
	if (inet_ntop(AF_INET6, v6, string, INET6_ADDRSTRLEN) == NULL)
		return -errno;
	size_t length = strlen(string);
	/* The same address on another link is another host. */
	if (IN6_IS_ADDR_LINKLOCAL(v6) && if_indextoname(address->v6.sin6_scope_id, string + length + 1) != NULL) {
		string[length] = '%';
		length += 1 + strlen(string + length + 1);
	}
	return (int) length;
}

int os_inet_name(int fd, bool peer, struct os_inet_name *name)
{
	union inet_address address;
	socklen_t size = sizeof address;
	if ((peer ? getpeername : getsockname)(fd, &address.any, &size) < 0)
		return -errno;
	int length = put_text(&address, name->text, &name->family, &name->port);
	name->length = length < 0 ? 0 : (size_t) length;
	return length < 0 ? length : 0;
}

/* Connections that ended while they waited: accept(2) tells of them once and goes on. */
static bool is_over(int error)
{
	return error == EINTR || error == ECONNABORTED || error == EPROTO;
}

int os_accept_many(int fd, int32_t *fds, size_t most, uint8_t *addresses)
{
	size_t count = 0;
	int error = never_waits(fd);
	while (error == 0 && count < most) {
		union inet_address address;
		socklen_t size = sizeof address;
		int connection = addresses == NULL ? accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)
			: accept4(fd, &address.any, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (connection < 0) {
			error = is_over(errno) ? 0 : -errno;
			continue;
		}
		if (addresses != NULL) {
			int family, port, length = put_text(&address, addresses + count * OS_ADDRESS + 1, &family, &port);
			addresses[count * OS_ADDRESS] = length < 0 ? 0 : (uint8_t) length;
		}
		fds[count++] = connection;
	}
	return count > 0 || error == -EAGAIN ? (int) count : error;
}

/*
 * The filter of a TCP listener sees each segment for it from the TCP header on. It drops those that begin a handshake. It lets the ones pass
 * that end a handshake: whoever has been sent a SYN-ACK takes itself for connected.
 */
static int drop_syns(int fd)
{
	enum { FLAGS = 13, SYN = 2 };
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, FLAGS),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, SYN, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX)
	};
	struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
	return outcome(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
}

int os_close_queue(int fd)
{
	int domain, listens = 0;
	socklen_t size = sizeof domain;
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0)
		return -errno;
	size = sizeof listens;
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0)
		return -errno;
	if (!listens)
		return -EINVAL;
	/* connect(2) looks at it under the lock with which it queues (unix_stream_connect); accept(2) gives what is queued. */
	return domain == AF_UNIX ? outcome(shutdown(fd, SHUT_RD)) : drop_syns(fd);
}

int os_diagnosis(void)
{
	return outcome(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG));
}

/* Asks sock_diag(7) for the sockets of one family and local port whose handshake is under way. */
static int ask_for_handshakes(int netlink, int family, uint16_t port)
{
	struct {
		struct nlmsghdr header;
		struct inet_diag_req_v2 request;
	} message = {
		.header = {.nlmsg_len = sizeof message, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
		.request = {
			.sdiag_family = (uint8_t) family, .sdiag_protocol = IPPROTO_TCP,
			.idiag_states = 1U << TCP_SYN_RECV, .id = {.idiag_sport = port}
		}
	};
	return send(netlink, &message, sizeof message, 0) < 0 ? -errno : 0;
}

/* The kernel writes each part of the answer within the call that reads the one before: it never has to be waited for. */
static int count_answers(int netlink)
{
	union {
		struct nlmsghdr first;
		uint8_t bytes[16384];
	} part;
	for (int count = 0;;) {
		ssize_t length = recv(netlink, &part, sizeof part, MSG_DONTWAIT);
		if (length < 0 && errno == EINTR)
			continue;
		if (length <= 0)
			return length < 0 ? -errno : -EPROTO;
		size_t left = (size_t) length;
		for (struct nlmsghdr *one = &part.first; NLMSG_OK(one, left); one = NLMSG_NEXT(one, left)) {
			if (one->nlmsg_type == NLMSG_DONE)
				return count;
			if (one->nlmsg_type == NLMSG_ERROR) {
				int error = ((struct nlmsgerr *) NLMSG_DATA(one))->error;
				return error < 0 ? error : -EPROTO;
			}
			count++;
		}
	}
}

int os_handshakes(int fd)
{
	union inet_address address;
	socklen_t size = sizeof address;
	if (getsockname(fd, &address.any, &size) < 0)
		return -errno;
	int family = address.any.sa_family;
	if (family == AF_UNIX)
		return 0;
	if (family != AF_INET && family != AF_INET6)
		return -EAFNOSUPPORT;
	int netlink = os_diagnosis();
	if (netlink < 0)
		return netlink;
	int result = ask_for_handshakes(netlink, family, family == AF_INET ? address.v4.sin_port : address.v6.sin6_port);
	if (result == 0)
		result = count_answers(netlink);
	close(netlink);
	return result;
}

/* Asks sock_diag(7) for the length of one Unix listener's queue; it is found by its inode. */
static int ask_for_queue(int netlink, ino_t inode)
{
	struct {
		struct nlmsghdr header;
		struct unix_diag_req request;
	} message = {
		.header = {.nlmsg_len = sizeof message, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
		.request = {
			.sdiag_family = AF_UNIX, .udiag_states = 1U << TCP_LISTEN, .udiag_ino = (uint32_t) inode,
			.udiag_show = UDIAG_SHOW_RQLEN, .udiag_cookie = {UINT32_MAX, UINT32_MAX}
		}
	};
	return send(netlink, &message, sizeof message, 0) < 0 ? -errno : 0;
}

static int queue_answer(int netlink)
{
	union {
		struct nlmsghdr header;
		uint8_t bytes[1024];
	} answer;
	ssize_t length;
	do {
		length = recv(netlink, &answer, sizeof answer, MSG_DONTWAIT);
	} while (length < 0 && errno == EINTR);
	if (length < 0)
		return -errno;
	size_t left = (size_t) length;
	if (!NLMSG_OK(&answer.header, left) || answer.header.nlmsg_type != SOCK_DIAG_BY_FAMILY)
		return -EPROTO;
	struct unix_diag_msg *facts = NLMSG_DATA(&answer.header);
	unsigned int rest = NLMSG_PAYLOAD(&answer.header, sizeof *facts);
	for (struct rtattr *one = (struct rtattr *) (facts + 1); RTA_OK(one, rest); one = RTA_NEXT(one, rest))
		if (one->rta_type == UNIX_DIAG_RQLEN)
			return (int) ((struct unix_diag_rqlen *) RTA_DATA(one))->udiag_rqueue;
	return -EPROTO;
}

static int unix_queue(int fd)
{
	struct stat facts;
	if (fstat(fd, &facts) < 0)
		return -errno;
	int netlink = os_diagnosis();
	if (netlink < 0)
		return netlink;
	int result = ask_for_queue(netlink, facts.st_ino);
	if (result == 0)
		result = queue_answer(netlink);
	close(netlink);
	return result;
}

/* For a listener, tcpi_unacked is the length of its queue (tcp_get_info in the kernel). */
static int tcp_queue(int fd)
{
	struct tcp_info facts;
	socklen_t size = sizeof facts;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &facts, &size) < 0)
		return -errno;
	return facts.tcpi_state == TCP_LISTEN ? (int) facts.tcpi_unacked : 0;
}

int os_queued(int fd)
{
	int count = tcp_queue(fd);
	if (count == -EOPNOTSUPP) /* AF_UNIX has no such option */
		count = unix_queue(fd);
	if (count > 0 || count == -EBADF || count == -ENOTSOCK)
		return count;
	/* Without sock_diag, or in a kernel that does not count, poll(2) still knows whether somebody waits. */
	struct pollfd one = {.fd = fd, .events = POLLIN};
	if (poll(&one, 1, 0) < 0)
		return -errno;
	return (one.revents & POLLIN) != 0 ? -EAGAIN : 0;
}

int os_quiet(int fd)
{
	struct tcp_info facts;
	socklen_t size = sizeof facts;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &facts, &size) < 0)
		return -errno;
	/* Both count from the handshake as long as there was no byte. */
	uint32_t quiet = facts.tcpi_last_data_sent < facts.tcpi_last_data_recv ? facts.tcpi_last_data_sent : facts.tcpi_last_data_recv;
	return quiet > INT32_MAX ? INT32_MAX : (int) quiet;
}
