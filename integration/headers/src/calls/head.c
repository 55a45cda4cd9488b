/*
 * Fills the arguments of all calls, and says which value is where. Without an argument the program
 * prints its memory. With `call` it makes each call on a file of its kind, and says the values before
 * and after, because the kernel writes some of them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/kvm.h>
#include <linux/vfio.h>
#include <linux/iommufd.h>

#define BLOCK 16384
static unsigned char *b[4096];
static unsigned long long argument;
static int calling;

static void block(int index)
{
	b[index] = calloc(1, BLOCK);
}

static void say(const char *path, unsigned size, unsigned long long value)
{
	printf("expect %s %u %llx\n", path, size, value);
}

static void dump(int from, int to)
{
	for (int index = from; index < to; index++) {
		int end = BLOCK;
		while (end && !b[index][end - 1])
			end--;
		printf("block %llx ", (unsigned long long)b[index]);
		for (int at = 0; at < end; at++)
			printf("%02x", b[index][at]);
		printf(".\n");
	}
}

static int open_kvm(void)
{
	static int kvm = -1;
	return kvm < 0 ? kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC) : kvm;
}

static int open_vm(void)
{
	static int vm = -1;
	return vm < 0 ? vm = ioctl(open_kvm(), KVM_CREATE_VM, 0ul) : vm;
}

static int open_vcpu(void)
{
	static int vcpu = -1;
	return vcpu < 0 ? vcpu = ioctl(open_vm(), KVM_CREATE_VCPU, 0ul) : vcpu;
}

static int open_kvm_device(void)
{
	static int device = -1;
	struct kvm_create_device make = { .type = KVM_DEV_TYPE_VFIO };
	if (device < 0 && ioctl(open_vm(), KVM_CREATE_DEVICE, &make) == 0)
		device = make.fd;
	return device;
}

static int open_container(void)
{
	static int container = -1;
	return container < 0 ? container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC) : container;
}

static int open_group(void)
{
	static int group = -1;
	const char *path = getenv("CALLS_GROUP");
	if (group < 0 && path) {
		int container = open_container();
		group = open(path, O_RDWR | O_CLOEXEC);
		ioctl(group, VFIO_GROUP_SET_CONTAINER, &container);
		ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU);
	}
	return group;
}

static int open_device(void)
{
	static int device = -1;
	const char *address = getenv("CALLS_DEVICE");
	if (device < 0 && address)
		device = ioctl(open_group(), VFIO_GROUP_GET_DEVICE_FD, address);
	return device;
}

static int open_iommufd(void)
{
	static int iommufd = -1;
	return iommufd < 0 ? iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC) : iommufd;
}

static const struct {
	const char *kind;
	int (*open)(void);
} kinds[] = {
	{ "Kvm", open_kvm },		 { "Vm", open_vm },
	{ "Vcpu", open_vcpu },		 { "KvmDevice", open_kvm_device },
	{ "Container", open_container }, { "Group", open_group },
	{ "Device", open_device },	 { "Iommufd", open_iommufd },
};

static int open_kind(const char *kind)
{
	for (unsigned at = 0; at < sizeof(kinds) / sizeof(kinds[0]); at++)
		if (!strcmp(kinds[at].kind, kind))
			return kinds[at].open();
	return -1;
}

/* Opens the files, so that no call of that comes between the calls that are looked at. */
static void open_all(void)
{
	calling = 1;
	for (unsigned at = 0; at < sizeof(kinds) / sizeof(kinds[0]); at++)
		kinds[at].open();
}

static void finish(const char *name, const char *kind, unsigned number, void (*says)(void), int from,
		   int to)
{
	printf("case %s %s %x\n", name, kind, number);
	printf("argument %llx\n", argument);
	if (!calling) {
		says();
		dump(from, to);
		return;
	}
	/* The guest has nothing to run. */
	int fd = number == KVM_RUN ? -1 : open_kind(kind);
	if (fd < 0) {
		printf("skip\n");
		return;
	}
	says();
	int result = ioctl(fd, number, argument);
	printf("result %d\n", result < 0 ? -errno : result);
	says();
}
