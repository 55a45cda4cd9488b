# Does each of five things 50 times, and prints how many cycles of the processor one of them took.
	.include "common.s"

	.macro price text:vararg
	mov %eax, (end)			# the last answer is kept, so that no work is in vain
	call stop
	call say
	.asciz \text
	.endm

	.macro times
	call start
	mov $50, %ecx
	.endm

main:	times
1:	mov (stack), %eax		# memory
	loop 1b
	price " cycles: a load from memory\n"

	times
1:	mov %ecx, %edi
	xor %eax, %eax			# the processor's own name: KVM answers
	cpuid
	mov %edi, %ecx
	loop 1b
	price " cycles: an exit that KVM answers\n"

	times
	mov $0x3fd, %edx
1:	in (%dx), %al
	loop 1b
	price " cycles: a read of a port\n"

	times
	mov $0xcf8, %edx
1:	out %eax, (%dx)			# kept in the ring
	loop 1b
	price " cycles: a write that KVM keeps\n"

	times
1:	mov 0xd8000000, %eax
	loop 1b
	price " cycles: a read of a register in memory\n"
	ret

# start, stop: the time between them goes into `cycles`, for one of fifty.
start:	rdtsc
	mov %eax, (cycles)
	ret
stop:	rdtsc
	sub (cycles), %eax
	xor %edx, %edx
	mov $50, %ecx
	div %ecx
	call decimal
	ret

# decimal: sends %eax.
decimal:
	xor %edx, %edx
	mov $10, %ecx
	div %ecx
	push %edx
	test %eax, %eax
	jz 1f
	call decimal
1:	pop %eax
	add $'0', %al
	call char
	ret

# say: sends the text after the call, and goes on behind it.
say:	pop %esi
1:	lodsb
	test %al, %al
	jz 2f
	call char
	jmp 1b
2:	jmp *%esi

	.set stack, 0x90000
	.set cycles, 0x80000
	.set end, 0x80004
