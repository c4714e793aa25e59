/* Bytes with descriptors, as send_fds and recv_fds of Python's socket module. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union control {
  char bytes[CMSG_SPACE(253 * sizeof(int))]; /* the kernel passes no more in one call */
  struct cmsghdr aligned;
};

/* Sends what the socket takes. The descriptors leave with the first byte, and stay open here. -1: errno. */
static inline ssize_t send_fds(int socket, const void *bytes, size_t length, const int *fds, int count) {
  union control control = {0};
  struct iovec part = {(void *)bytes, length};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (count > 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    *head = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(count * sizeof(int))};
    memcpy(CMSG_DATA(head), fds, count * sizeof(int));
  }
  ssize_t sent;
  while ((sent = sendmsg(socket, &message, MSG_NOSIGNAL)) < 0 && errno == EINTR) {}
  return sent;
}

/* Receives what is there. Appends the descriptors to `fds`, which needs room for 253. 0: end of file. -1: errno; EPROTO: some were lost. */
static inline ssize_t recv_fds(int socket, void *bytes, size_t length, int *fds, int *count) {
  union control control;
  struct iovec part = {bytes, length};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control};
  ssize_t received;
  while ((received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR) {}
  if (received < 0) return -1;
  for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head != NULL; head = CMSG_NXTHDR(&message, head)) {
    if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
    int more = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(fds + *count, CMSG_DATA(head), more * sizeof(int));
    *count += more;
  }
  return message.msg_flags & MSG_CTRUNC ? (errno = EPROTO, -1) : received;
}

/* Removes the first ones of a list. */
static inline void shift_fds(int *fds, int *count, int by) { memmove(fds, fds + by, (*count -= by) * sizeof *fds); }

static inline void close_fds(const int *fds, int count) {
  for (int i = 0; i < count; i++) close(fds[i]);
}
