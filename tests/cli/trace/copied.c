/* Two VMs are copied by pidfd_getfd(2), when the thread that made them has ended, and the number of
 * one has become that of an eventfd. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int vms[2];

static void *make(void *kvm)
{
	for (int i = 0; i < 2; i++)
		vms[i] = ioctl(*(int *)kvm, KVM_CREATE_VM, 0);
	return 0;
}

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	pthread_t thread;
	if (pthread_create(&thread, 0, make, &kvm) || pthread_join(thread, 0))
		return 1;
	int own = syscall(SYS_pidfd_open, getpid(), 0);
	int moved = dup(vms[0]);
	close(vms[0]);
	if (eventfd(0, 0) != vms[0])
		return 2;
	int first = syscall(SYS_pidfd_getfd, own, moved, 0);
	int second = syscall(SYS_pidfd_getfd, own, vms[1], 0);
	ioctl(first, KVM_SET_TSS_ADDR, 0xfffbd000);
	ioctl(second, KVM_CREATE_IRQCHIP, 0);
	return first < 0 || second < 0;
}
