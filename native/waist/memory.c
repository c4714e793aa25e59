/* Memory that processes share. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "os.h"

#ifndef MFD_NOEXEC_SEAL /* Linux 6.3 */
#define MFD_NOEXEC_SEAL 8U
#endif

int os_memfd(const char *name, int64_t size)
{
	unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(name, flags);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, size) == 0)
		return fd;
	int error = -errno;
	os_close(fd);
	return error;
}

int os_chmod(int fd, int mode)
{
	return fchmod(fd, (mode_t) mode) < 0 ? -errno : 0;
}

int os_seals(int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);
	return seals < 0 ? -errno : seals;
}

int os_seal(int fd, int seals)
{
	return fcntl(fd, F_ADD_SEALS, seals) < 0 ? -errno : 0;
}

int os_map(int fd, size_t size, bool writable, void **address)
{
	struct statfs system;
	struct stat status;
	/* First, as only memory has seals: the other questions would wait for the server of a network file. */
	int seals = os_seals(fd);
	if (seals < 0)
		return seals;
	if ((seals & F_SEAL_SHRINK) == 0)
		return -EPERM;
	if (fstatfs(fd, &system) < 0 || fstat(fd, &status) < 0)
		return -errno;
	if (system.f_type != TMPFS_MAGIC || !S_ISREG(status.st_mode))
		return -ENODEV;
	if (size == 0 || (uint64_t) status.st_size < size)
		return -ERANGE;
	*address = mmap(NULL, size, PROT_READ | PROT_WRITE, writable ? MAP_SHARED : MAP_PRIVATE, fd, 0);
	return *address == MAP_FAILED ? -errno : 0;
}

void os_unmap(void *address, size_t size)
{
	munmap(address, size);
}
