/* What tests/cli/trace/filter.rs traces: calls that a seccomp filter of the tracer could change. It
 * prints the same with and without a tracer; with an argument, how often a call has waited. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* A child makes a call at which the tracer's filter stops. */
static int child(void) {
	uint64_t value = 3;
	int fd = eventfd(0, 0);
	if (write(fd, &value, 8) != 8 || read(fd, &value, 8) != 8)
		return errno;
	return value;
}

static void ended(const char *name) {
	int status;
	while (waitpid(-1, &status, __WALL) == -1 && errno == EINTR)
		;
	printf("%s: status %d\n", name, WEXITSTATUS(status));
}

/* Children that no tracer is to follow. */
static void untraced(void) {
	long flags = CLONE_UNTRACED | SIGCHLD;
	if (syscall(SYS_clone, flags, NULL, NULL, NULL, 0) == 0)
		_exit(child());
	ended("clone");
	struct clone_args args = {.flags = CLONE_UNTRACED, .exit_signal = SIGCHLD};
	long pid = syscall(SYS_clone3, &args, sizeof(args));
	/* As glibc does where the kernel has no clone3. */
	if (pid == -1 && errno == ENOSYS)
		pid = syscall(SYS_clone, flags, NULL, NULL, NULL, 0);
	if (pid == 0)
		_exit(child());
	ended("clone3");
}

/* getpid of the 32-bit interface. In the 64-bit one, 20 is writev, which nothing here calls. */
#define GETPID_32 20

/* A filter of the program's own hands a call to a tracer, and refuses another. */
static void own(void) {
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE | 7),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_eventfd2, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EXDEV),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_dup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE | 8),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, GETPID_32, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE | 9),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	printf("own filter: %d\n", prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0));
	errno = 0;
	long value = syscall(SYS_getppid);
	printf("getppid: %ld %s\n", value, strerror(errno));
	value = eventfd(0, 0);
	printf("eventfd: %ld %s\n", value, strerror(errno));
	value = dup(0);
	printf("dup: %ld %s\n", value, strerror(errno));
	/* A kernel without the 32-bit interface ends the child. */
	if (fork() == 0) {
		int result = GETPID_32;
		__asm__ volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
		printf("32-bit call: %d\n", result);
		_exit(0);
	}
	ended("32-bit");
}

/* Voluntary waits during calls that no trace shows. */
static void waits(void) {
	struct rusage before, after;
	char text[8];
	struct iovec part = {text, sizeof(text)};
	getrusage(RUSAGE_SELF, &before);
	for (int i = 0; i < 1000; i++) {
		getppid();
		mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		readv(-1, &part, 1);
	}
	getrusage(RUSAGE_SELF, &after);
	printf("%ld\n", after.ru_nvcsw - before.ru_nvcsw);
}

int main(int argc, char **argv) {
	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc > 1) {
		waits();
		return 0;
	}
	untraced();
	own();
	return 0;
}
