/* What tests/cli/trace/behaviour.rs traces. It prints the same with and without a tracer. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static atomic_int handled;

static void handler(int signal) {
	(void)signal;
	handled++;
}

static void *worker(void *argument) {
	int *fds = argument;
	for (int i = 0; i < 200; i++) {
		uint64_t value;
		if (read(fds[0], &value, 8) != 8 || write(fds[1], &value, 8) != 8)
			abort();
	}
	return NULL;
}

/* Four threads hand an event round, and get signals meanwhile. */
static void threads(void) {
	pthread_t all[4];
	int fds[5], pairs[4][2];
	for (int i = 0; i < 5; i++)
		fds[i] = eventfd(i == 0, 0);
	for (int i = 0; i < 4; i++) {
		pairs[i][0] = fds[i];
		pairs[i][1] = i == 3 ? fds[0] : fds[i + 1];
		pthread_create(&all[i], NULL, worker, pairs[i]);
	}
	for (int i = 0; i < 40; i++) {
		int before = handled;
		pthread_kill(all[i % 4], SIGUSR1);
		for (int wait = 0; handled == before && wait < 1000; wait++)
			usleep(100);
		/* The thread may have ended. */
		if (handled == before)
			break;
	}
	for (int i = 0; i < 4; i++)
		pthread_join(all[i], NULL);
	printf("threads ended, signals came: %d\n", handled > 0);
}

/* A child that stops twice, and goes on. */
static void stops(void) {
	int status, go_on[2];
	char byte = 0;
	if (pipe(go_on) != 0)
		abort();
	pid_t child = fork();
	if (child == 0) {
		/* What waitpid would tell is lost if the child stops or ends too early. */
		raise(SIGSTOP);
		/* The kernel ignores SIGTSTP in a process group whose parents have gone. */
		setpgid(0, 0);
		if (read(go_on[0], &byte, 1) != 1)
			abort();
		raise(SIGTSTP);
		if (read(go_on[0], &byte, 1) != 1)
			abort();
		_exit(9);
	}
	for (int i = 0; i < 2; i++) {
		if (waitpid(child, &status, WUNTRACED) != child)
			abort();
		printf("stopped %d by %d\n", WIFSTOPPED(status), WSTOPSIG(status));
		kill(child, SIGCONT);
		if (waitpid(child, &status, WCONTINUED) != child)
			abort();
		printf("continued %d\n", WIFCONTINUED(status));
		if (write(go_on[1], &byte, 1) != 1)
			abort();
	}
	waitpid(child, &status, 0);
	printf("ended %d\n", WEXITSTATUS(status));
	child = fork();
	if (child == 0) {
		pause();
		_exit(0);
	}
	kill(child, SIGSEGV);
	waitpid(child, &status, 0);
	printf("killed by %d\n", WTERMSIG(status));
}

/* An eventfd goes to a child by a socket. */
static void passed(void) {
	int pair[2], fd = eventfd(5, 0);
	socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
	if (fork() == 0) {
		close(fd);
		char byte, control[CMSG_SPACE(sizeof(int))];
		struct iovec vector = {&byte, 1};
		struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1,
			.msg_control = control, .msg_controllen = sizeof(control)};
		if (recvmsg(pair[1], &message, 0) != 1)
			abort();
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
		uint64_t value;
		int copy = dup(fd);
		close(fd);
		if (read(copy, &value, 8) != 8)
			abort();
		_exit(value);
	}
	char control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec vector = {"x", 1};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	sendmsg(pair[0], &message, 0);
	int status;
	wait(&status);
	printf("the child has read %d\n", WEXITSTATUS(status));
}

static void *execute(void *argument) {
	(void)argument;
	execlp("sh", "sh", "-c", "echo executed by a thread; exit 42", (char *)NULL);
	abort();
}

int main(void) {
	setvbuf(stdout, NULL, _IONBF, 0);
	struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
	sigaction(SIGUSR1, &action, NULL);
	threads();
	stops();
	passed();
	if (vfork() == 0)
		_exit(0);
	wait(NULL);
	errno = 0;
	printf("no child is left: %d\n", wait(NULL) == -1 && errno == ECHILD);
	pthread_t thread;
	pthread_create(&thread, NULL, execute, NULL);
	pthread_join(thread, NULL);
	return 1;
}
