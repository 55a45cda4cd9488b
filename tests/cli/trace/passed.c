/* Two VMs go to another process by messages, and the sender closes its own descriptors first. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void pass(int socket, int *fd, int receive)
{
	char byte = 0, control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec vector = { &byte, 1 };
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof control };
	if (receive) {
		if (recvmsg(socket, &message, 0) != 1)
			exit(1);
		memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof *fd);
		return;
	}
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), fd, sizeof *fd);
	if (sendmsg(socket, &message, 0) != 1)
		exit(2);
	close(*fd);
}

int main(void)
{
	int pair[2], begin[2], vm;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || pipe(begin))
		return 3;
	if (fork() == 0) {
		char byte;
		if (read(begin[0], &byte, 1) != 1)
			exit(4);
		pass(pair[1], &vm, 1);
		ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000);
		pass(pair[1], &vm, 1);
		ioctl(vm, KVM_CREATE_IRQCHIP, 0);
		exit(0);
	}
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	for (int i = 0; i < 2; i++) {
		vm = ioctl(kvm, KVM_CREATE_VM, 0);
		pass(pair[0], &vm, 0);
	}
	if (write(begin[1], "x", 1) != 1)
		return 5;
	int status;
	wait(&status);
	return WEXITSTATUS(status);
}
