/* Included before each file of the waist: what it receives and closes passes through targets.c, which may stand in for the kernel. */
#include <sys/socket.h>
#include <unistd.h>

ssize_t fuzzed_recvmsg(int fd, struct msghdr *header, int flags);
int fuzzed_close(int fd);
#define recvmsg fuzzed_recvmsg
#define close fuzzed_close
