/* What tests/cli/trace/behaviour.rs traces: parents that are killed while they fork. */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
	for (int i = 0; i < 200; i++) {
		int ends[2];
		char byte;
		if (pipe(ends) != 0)
			abort();
		pid_t parent = fork();
		if (parent == 0) {
			for (;;)
				if (fork() == 0)
					_exit(0);
		}
		close(ends[1]);
		usleep(300 + i * 7);
		kill(parent, SIGKILL);
		if (waitpid(parent, NULL, 0) != parent)
			abort();
		/* The file ends when the last child has. */
		if (read(ends[0], &byte, 1) != 0)
			abort();
		close(ends[0]);
	}
	return 42;
}
