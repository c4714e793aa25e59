/* Sockets: from their beginning to bytes with descriptors. */
#include <errno.h>
#include <string.h>

#include "../waist/os.h"
#include "function.h"

enum { MAX_CHUNKS = 64 };

FUNCTION_OF_INT(make_socket, type, held_take(&environment->held, os_socket(type)))

FUNCTION(bind_unix)
{
	int fd, mode;
	struct array name;
	TRY(read_int(environment, argument[0], &fd));
	TRY(read_array(environment, argument[1], napi_uint8_array, &name));
	TRY(read_int(environment, argument[2], &mode));
	return os_bind(fd, name.data, name.length, mode);
}

FUNCTION_OF_TWO(listen_on, fd, int, backlog, os_listen(fd, backlog))
FUNCTION_OF_INT(accept_one, fd, held_take(&environment->held, os_accept(fd)))

FUNCTION(connect_to)
{
	int fd;
	struct array name;
	TRY(read_int(environment, argument[0], &fd));
	TRY(read_array(environment, argument[1], napi_uint8_array, &name));
	return os_connect(fd, name.data, name.length);
}

FUNCTION(bind_inet)
{
	bool udp;
	char host[128];
	size_t length;
	int port, backlog, flags;
	TRY(read_bool(environment, argument[0], &udp));
	CHECK(napi_get_value_string_utf8(environment->env, argument[1], host, sizeof host, &length));
	TRY(read_int(environment, argument[2], &port));
	TRY(read_int(environment, argument[3], &backlog));
	TRY(read_int(environment, argument[4], &flags));
	if (length == sizeof host - 1 || strlen(host) != length) /* cut off, or with a NUL inside */
		return -EINVAL;
	return held_take(&environment->held, os_bind_inet(udp, host, port, backlog, flags));
}

FUNCTION(peer)
{
	int fd;
	struct array out;
	TRY(read_int(environment, argument[0], &fd));
	TRY(read_array(environment, argument[1], napi_int32_array, &out));
	return os_peer(fd, out.data, out.length);
}

FUNCTION_OF_TWO(pass_rights, fd, bool, on, os_pass_rights(fd, on))
FUNCTION_OF_TWO(send_buffer, fd, int, bytes, os_send_buffer(fd, bytes))
FUNCTION_OF_TWO(shut_down, fd, int, how, os_shutdown(fd, how))
FUNCTION_OF_INT(peer_pidfd, fd, held_take(&environment->held, os_peer_pidfd(fd)))

FUNCTION(send_bytes)
{
	int fd;
	struct array bytes, fds;
	TRY(read_int(environment, argument[0], &fd));
	TRY(read_bytes(environment, argument + 1, &bytes));
	TRY(read_fds(environment, argument + 4, &fds));
	struct iovec chunk = {.iov_base = bytes.data, .iov_len = bytes.length};
	return os_send(fd, &chunk, 1, fds.data, fds.length);
}

FUNCTION(send_vector)
{
	int fd;
	uint32_t count;
	int64_t skip;
	struct array chunk, fds;
	struct iovec chunks[MAX_CHUNKS];
	TRY(read_int(environment, argument[0], &fd));
	CHECK(napi_get_array_length(environment->env, argument[1], &count));
	CHECK(napi_get_value_int64(environment->env, argument[2], &skip));
	TRY(read_fds(environment, argument + 3, &fds));
	if (count > MAX_CHUNKS)
		count = MAX_CHUNKS;
	for (uint32_t i = 0; i < count; i++) {
		napi_value element;
		CHECK(napi_get_element(environment->env, argument[1], i, &element));
		TRY(read_array(environment, element, napi_uint8_array, &chunk));
		chunks[i] = (struct iovec) {.iov_base = chunk.data, .iov_len = chunk.length};
	}
	if (skip < 0 || count == 0 || (uint64_t) skip > chunks[0].iov_len)
		return -EINVAL;
	chunks[0].iov_base = (uint8_t *) chunks[0].iov_base + skip;
	chunks[0].iov_len -= (size_t) skip;
	return os_send(fd, chunks, count, fds.data, fds.length);
}

const struct function socket_functions[] = {
	{"socket", call_make_socket}, {"bind", call_bind_unix}, {"listen", call_listen_on}, {"accept", call_accept_one},
	{"connect", call_connect_to}, {"bindInet", call_bind_inet}, {"peer", call_peer}, {"peerPidfd", call_peer_pidfd},
	{"passRights", call_pass_rights}, {"sendBuffer", call_send_buffer}, {"shutdown", call_shut_down},
	{"send", call_send_bytes}, {"sendVector", call_send_vector}, {NULL, NULL}
};
