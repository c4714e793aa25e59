/*
 * What the figures of a machine depend on: conditions NEAR FAR, the numbers of two cores. Prints a line `name value` for each of
 *   wakeOneCore, wakeTwoCores    µs from a write to an eventfd until a process that sleeps in read(2) runs: on the same core, on another
 *   futexOneCore, futexTwoCores  the same with FUTEX_WAKE and FUTEX_WAIT
 *   spinTwoCores                 ns from a store on one core until the other one, which spins, sees it
 *   pageFault                    ns for the first write to a fresh page of 4 KiB; hugePageFault: likewise, a 2 MiB page divided by 512
 *   systemCall                   ns for getppid(2)
 * Each is the median of BATCHES.
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

enum { BATCHES = 7, TRIPS = 500, SPINS = 5000, CALLS = 20000, PAGE = 4096, HUGE_PAGE = 2 << 20, TOUCHED = 16 << 20 };

/* Both processes have it: whose turn it is in `turn`. */
static struct { _Alignas(64) _Atomic uint32_t turn; } *shared;
static int to_far, to_near;

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double) time.tv_sec + (double) time.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void run_on(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET((size_t) cpu, &set);
	if (sched_setaffinity(0, sizeof set, &set) < 0)
		fail("sched_setaffinity");
}

static int compare(const void *left, const void *right)
{
	double a = *(const double *) left, b = *(const double *) right;
	return (a > b) - (a < b);
}

static double median_of(double (*batch)(void))
{
	double values[BATCHES];
	batch();
	for (int i = 0; i < BATCHES; i++)
		values[i] = batch();
	qsort(values, BATCHES, sizeof *values, compare);
	return values[BATCHES / 2];
}

/* --- two processes in turns: `pass` wakes the other one, `await` waits for it */

struct signal { void (*pass)(bool far); void (*await)(bool far); int trips; };

static void pass_eventfd(bool far)
{
	uint64_t one = 1;
	if (write(far ? to_near : to_far, &one, sizeof one) != sizeof one)
		fail("write");
}

static void await_eventfd(bool far)
{
	uint64_t count;
	if (read(far ? to_far : to_near, &count, sizeof count) != sizeof count)
		fail("read");
}

static void pass_futex(bool far)
{
	shared->turn = !far;
	syscall(SYS_futex, &shared->turn, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void await_futex(bool far)
{
	while (shared->turn != far)
		syscall(SYS_futex, &shared->turn, FUTEX_WAIT, !far, NULL, NULL, 0);
}

static void pass_store(bool far)
{
	shared->turn = !far;
}

static void await_store(bool far)
{
	while (shared->turn != far)
		;
}

static const struct signal by_eventfd = {pass_eventfd, await_eventfd, TRIPS};
static const struct signal by_futex = {pass_futex, await_futex, TRIPS};
static const struct signal by_store = {pass_store, await_store, SPINS};
static const struct signal *chosen;

/* Seconds from one process to the other: half of there and back. */
static double trips(void)
{
	double start = now();
	for (int i = 0; i < chosen->trips; i++) {
		chosen->pass(false);
		chosen->await(false);
	}
	return (now() - start) / chosen->trips / 2;
}

static double one_way(const struct signal *signal, int near, int far)
{
	int status;
	pid_t parent = getpid();
	chosen = signal;
	shared->turn = 0;
	run_on(near);
	pid_t child = fork();
	if (child < 0)
		fail("fork");
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		run_on(far);
		for (;;) {
			signal->await(true);
			signal->pass(true);
		}
	}
	double median = median_of(trips);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	return median;
}

/* --- the kernel alone */

static double calls(void)
{
	double start = now();
	for (int i = 0; i < CALLS; i++)
		syscall(SYS_getppid);
	return (now() - start) / CALLS;
}

/* Seconds for a page of 4 KiB, touched one a `step`, as `advice` has it. */
static double touched(int advice, size_t step)
{
	char *mapped = mmap(NULL, TOUCHED + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mapped == MAP_FAILED)
		fail("mmap");
	char *aligned = (char *) (((uintptr_t) mapped + HUGE_PAGE - 1) & ~(uintptr_t) (HUGE_PAGE - 1));
	madvise(aligned, TOUCHED, advice);
	double start = now();
	for (size_t at = 0; at < TOUCHED; at += step)
		aligned[at] = 1;
	double took = now() - start;
	munmap(mapped, TOUCHED + HUGE_PAGE);
	return took / (TOUCHED / PAGE);
}

static double pages(void)
{
	return touched(MADV_NOHUGEPAGE, PAGE);
}

/* Every small page: if the kernel gives no huge ones, this costs what `pages` does. */
static double huge_pages(void)
{
	return touched(MADV_HUGEPAGE, PAGE);
}

int main(int argument_count, char **argument)
{
	if (argument_count != 3) {
		fputs("conditions NEAR FAR\n", stderr);
		return 1;
	}
	int near = atoi(argument[1]), far = atoi(argument[2]);
	to_far = eventfd(0, EFD_CLOEXEC);
	to_near = eventfd(0, EFD_CLOEXEC);
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (to_far < 0 || to_near < 0 || shared == MAP_FAILED)
		fail("eventfd or mmap");
	printf("wakeOneCore %f\n", one_way(&by_eventfd, near, near) * 1e6);
	printf("futexOneCore %f\n", one_way(&by_futex, near, near) * 1e6);
	if (near != far) {
		printf("wakeTwoCores %f\n", one_way(&by_eventfd, near, far) * 1e6);
		printf("futexTwoCores %f\n", one_way(&by_futex, near, far) * 1e6);
		printf("spinTwoCores %f\n", one_way(&by_store, near, far) * 1e9);
	}
	printf("pageFault %f\n", median_of(pages) * 1e9);
	printf("hugePageFault %f\n", median_of(huge_pages) * 1e9);
	printf("systemCall %f\n", median_of(calls) * 1e9);
	return 0;
}
