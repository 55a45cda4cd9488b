/* Returns of KVM_RUN after which a thread does not, or not soon, enter KVM_RUN again: what
 * tests/cli/trace/returns.rs traces. The guest reads and writes ports, and halts; or runs for ever. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* l: in $0x11,%al; out %al,$0x10; dec %bx; jnz l; hlt; m: jmp m */
static const unsigned char code[] = { 0xe4, 0x11, 0xe6, 0x10, 0x4b, 0x75, 0xf9, 0xf4, 0xeb, 0xfe };
/* l: out %al,$0x20; inc %al; in $0x11,%al; dec %bx; jnz l; then 40 bytes of a string, and hlt:
 * mov $0x1000,%si; mov $0x12,%dx; mov $40,%cx; cld; rep outsb; hlt */
static const unsigned char more[] = {
	0xe6, 0x20, 0xe6, 0x20, 0xfe, 0xc0, 0xfe, 0xcf, 0x75, 0xf6, 0xe4, 0x11, 0x4b, 0x75, 0xf1,
	0xbe, 0x00, 0x10, 0xba, 0x12, 0x00, 0xb9, 0x28, 0x00, 0xfc, 0xf3, 0x6e, 0xf4
};
enum { START = 0x1000, LOOP = START + 8, MORE = START + 64 };

static int vm, vcpu;
static struct kvm_run *run;
static atomic_int halted;

static void machine(int rip, int times)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	unsigned char *memory = mmap(0, 4096, PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memcpy(memory, code, sizeof code);
	memcpy(memory + MORE - START, more, sizeof more);
	struct kvm_userspace_memory_region region = {
		.guest_phys_addr = START,
		.memory_size = 4096,
		.userspace_addr = (unsigned long)memory,
	};
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		abort();
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	run = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	struct kvm_sregs sregs;
	ioctl(vcpu, KVM_GET_SREGS, &sregs);
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	ioctl(vcpu, KVM_SET_SREGS, &sregs);
	struct kvm_regs regs = { .rip = rip, .rbx = times, .rflags = 2 };
	ioctl(vcpu, KVM_SET_REGS, &regs);
}

static int enter(void)
{
	return ioctl(vcpu, KVM_RUN, 0) ? errno : 0;
}

/* Runs until the guest halts, and does something after each exit. */
static void guest(void (*then)(void))
{
	for (;;) {
		if (enter() != 0)
			abort();
		if (run->exit_reason == KVM_EXIT_HLT)
			return;
		if (!run->io.direction)
			*((char *)run + run->io.data_offset) = 'a';
		if (then)
			then();
	}
}

static void sleeps(void)
{
	usleep(200000);
}

static void forgets(void)
{
	run->exit_reason = 77;
}

static void handler(int signal)
{
	(void)signal;
}

/* A signal may come before KVM_RUN, so that another one has to follow. */
static void alarms(void)
{
	struct itimerval often = { { .tv_usec = 20000 }, { .tv_usec = 20000 } };
	setitimer(ITIMER_REAL, &often, 0);
}

/* The last exit of a thread that ends, or, with an argument, waits for ever. */
static void *thread(void *parks)
{
	guest(0);
	halted = 1;
	while (parks)
		pause();
	return 0;
}

static void last(int parks, int kills)
{
	pthread_t id;
	machine(START, 1);
	pthread_create(&id, 0, thread, parks ? &halted : 0);
	while (!halted)
		usleep(1000);
	if (kills)
		raise(SIGKILL);
	if (!parks)
		pthread_join(id, 0);
}

/* A thread that blocks a signal which only KVM_RUN lets come has no stop for the signal. */
static void masked(void)
{
	struct { struct kvm_signal_mask head; unsigned char set[8]; } mask = { { .len = 8 }, { 0 } };
	sigset_t set;
	int taken;
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	sigprocmask(SIG_BLOCK, &set, 0);
	ioctl(vcpu, KVM_SET_SIGNAL_MASK, &mask);
	printf("masked: %d\n", enter());
	sigwait(&set, &taken);
}

/* Executes this program again, by another thread than the first. */
static void *executes(void *how)
{
	execl("/proc/self/exe", "returns", how, NULL);
	return 0;
}

/* Takes away what KVM has kept. */
static void empties(void)
{
	struct kvm_coalesced_mmio_ring *ring = (void *)((char *)run + 2 * 4096);
	ring->first = ring->last;
}

static void ring(int times)
{
	struct kvm_coalesced_mmio_zone zone = { .addr = 0x20, .size = 1, .pio = 1 };
	machine(MORE, times);
	ioctl(vm, KVM_REGISTER_COALESCED_MMIO, &zone);
	guest(empties);
}

/* Waits with a time, at which a tracer looks at rings. */
static void *waits(void *unused)
{
	struct timespec time = { .tv_nsec = 100000 };
	while (!halted)
		syscall(SYS_futex, &halted, 128 /* FUTEX_WAIT_PRIVATE */, 0, &time);
	return unused;
}

static void looks(void)
{
	pthread_t id;
	pthread_create(&id, 0, waits, 0);
	ring(100);
	halted = 1;
	pthread_join(id, 0);
}

/* The same vCPU by a descriptor that was made before its page was mapped. */
static void copies(void)
{
	machine(START, 1);
	int old = vcpu;
	vcpu = dup(old);
	munmap(run, 2 * 4096);
	run = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, old, 0);
	run->immediate_exit = 1;
	printf("copy: %d\n", enter());
	run->immediate_exit = 0;
	close(old);
	guest(0);
}

/* Two vCPUs by one number: the first thread has closed that of the first vCPU, and the second
 * thread has not. */
static void *runs(void *unused)
{
	guest(0);
	return unused;
}

static void *alone(void *copy)
{
	if (unshare(CLONE_FILES))
		abort();
	machine(START, 1);
	if (dup2(vcpu, *(int *)copy) < 0)
		abort();
	vcpu = *(int *)copy;
	return runs(0);
}

static void apart(void)
{
	pthread_t id;
	machine(START, 2);
	int first = vcpu;
	struct kvm_run *page = run;
	pthread_create(&id, 0, alone, &first);
	pthread_join(id, 0);
	vcpu = first;
	run = page;
	runs(0);
}

/* The same by a descriptor of which a tracer knows nothing before. */
static void found(void)
{
	machine(START, 2);
	vcpu = syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, getpid(), 0), vcpu, 0);
	guest(0);
}

static void lines(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	struct kvm_irq_level level = { .irq = 4 };
	printf("without: %d\n", ioctl(vm, KVM_IRQ_LINE, &level) ? errno : 0);
	ioctl(vm, KVM_CREATE_IRQCHIP, 0);
	for (int i = 0; i < 6; i++) {
		level.irq = 4 + i / 2;
		level.level = !(i & 1);
		ioctl(vm, i < 4 ? KVM_IRQ_LINE_STATUS : KVM_IRQ_LINE, &level);
	}
	printf("nowhere: %d\n", ioctl(vm, KVM_IRQ_LINE_STATUS, 0) ? errno : 0);
	printf("no file: %d\n", ioctl(0, KVM_IRQ_LINE, &level) ? errno : 0);
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "";
	setvbuf(stdout, 0, _IONBF, 0);
	signal(SIGALRM, handler);
	if (!strcmp(how, "slow")) {
		machine(START, 2);
		guest(sleeps);
	} else if (!strcmp(how, "ends")) {
		last(0, 0);
	} else if (!strcmp(how, "parks")) {
		last(1, 0);
	} else if (!strcmp(how, "killed")) {
		last(1, 1);
	} else if (!strcmp(how, "forgets")) {
		machine(START, 2);
		guest(forgets);
	} else if (!strcmp(how, "fails")) {
		machine(START, 1);
		printf("argument: %d\n", ioctl(vcpu, KVM_RUN, 1) ? errno : 0);
		run->immediate_exit = 1;
		printf("immediate: %d\n", enter());
		run->immediate_exit = 0;
		guest(0);
		run->kvm_valid_regs = ~0ull;
		printf("registers: %d\n", enter());
	} else if (!strcmp(how, "signals")) {
		machine(LOOP, 0);
		/* The first KVM_RUN starts a thread, and begins again if a signal comes meanwhile. */
		run->immediate_exit = 1;
		printf("immediate: %d\n", enter());
		run->immediate_exit = 0;
		alarms();
		printf("signal: %d\n", enter());
		masked();
	} else if (!strcmp(how, "ring")) {
		ring(3);
	} else if (!strcmp(how, "looks")) {
		looks();
	} else if (!strcmp(how, "copies")) {
		copies();
	} else if (!strcmp(how, "often")) {
		machine(START, 20000);
		guest(0);
	} else if (!strcmp(how, "executes")) {
		pthread_t id;
		machine(START, 1);
		pthread_create(&id, 0, executes, "forgets");
		pause();
	} else if (!strcmp(how, "apart")) {
		apart();
	} else if (!strcmp(how, "found")) {
		found();
	} else if (!strcmp(how, "lines")) {
		lines();
	} else if (!strcmp(how, "foreign")) {
		/* A VM is its own process's alone. */
		machine(START, 1);
		if (fork() == 0) {
			for (int i = 0; i < 3; i++)
				printf("child: %d\n", enter());
			_exit(0);
		}
		wait(0);
		guest(0);
	} else {
		struct rusage before, after;
		machine(START, 1000);
		getrusage(RUSAGE_SELF, &before);
		guest(0);
		getrusage(RUSAGE_SELF, &after);
		printf("%ld\n", after.ru_nvcsw - before.ru_nvcsw);
	}
	return 0;
}
