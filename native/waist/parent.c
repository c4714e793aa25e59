/* What becomes of a process whose parent has died. */
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "os.h"

/* Set once, before the handler that reads them. */
static volatile sig_atomic_t expected_parent, seconds_left;

static void count_down(void)
{
	struct sigaction fatal = {.sa_handler = SIG_DFL};
	sigaction(SIGALRM, &fatal, NULL);
	alarm((unsigned) seconds_left);
}

/* Also told when only the thread that made us has ended, and by anybody who has sent the signal. */
static void on_parents_end(int number, siginfo_t *information, void *context)
{
	int saved = errno;
	(void) number;
	(void) information;
	if (getppid() != expected_parent) {
		/* The mask that this thread will have when the handler has returned. */
		sigdelset(&((ucontext_t *) context)->uc_sigmask, SIGALRM);
		count_down();
	}
	errno = saved;
}

static bool is_free(int number)
{
	struct sigaction now;
	return sigaction(number, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) == 0 && now.sa_handler == SIG_DFL;
}

/* The highest real-time signal that nobody here uses; what is chosen stays. */
static int choose_signal(void)
{
	static int chosen;
	for (int number = SIGRTMAX; chosen == 0 && number >= SIGRTMIN; number--)
		if (is_free(number))
			chosen = number;
	return chosen == 0 ? -EBUSY : chosen;
}

int os_die_after_parent(int parent, int seconds)
{
	if (parent < 1 || seconds < 1 || syscall(SYS_gettid) != getpid())
		return -EINVAL;
	int number = choose_signal();
	if (number < 0)
		return number;
	expected_parent = parent;
	seconds_left = seconds;
	struct sigaction action = {.sa_sigaction = on_parents_end, .sa_flags = SA_SIGINFO | SA_RESTART};
	sigset_t both;
	sigemptyset(&both);
	sigaddset(&both, number);
	sigaddset(&both, SIGALRM);
	int error = -pthread_sigmask(SIG_UNBLOCK, &both, NULL);
	if (error == 0 && (sigaction(number, &action, NULL) < 0 || prctl(PR_SET_PDEATHSIG, number) < 0))
		error = -errno;
	if (error < 0)
		return error;
	/* It may have died before the kernel knew that we want to be told. */
	if (getppid() == parent)
		return 0;
	count_down();
	return 1;
}
