# What the guests share that drive a device, which is function 00:01.0. The registers are those of
# QEMU's edu device. (QEMU's document edu.rst has them.)
	.include "common.s"

	.set bar, 0xc0000000
	.set apic, 0xfee00000
	.set vector, 0x40

# tables: the processor finds a code segment and the handler, and the local APIC is on.
tables:	lgdt descriptors
	ljmp $8, $flat
flat:	mov $handler, %eax
	mov %ax, gate
	shr $16, %eax
	mov %ax, gate + 6
	lidt gates
	movl $0x1ff, apic + 0xf0
	sti
	ret

# answer: the device answers at its BAR, and may send requests (COMMAND). It has no reset, so what the
# last guest has not acknowledged is acknowledged here.
answer:	mov $0x810, %eax
	mov $bar, %ecx
	call write
	mov $0x804, %eax
	mov $6, %ecx
	call write
	mov bar + 0x24, %eax
	mov %eax, bar + 0x64
	ret

# message: the device interrupts by MSI, with the local APIC's address and the vector as data.
message:
	mov $0x844, %eax
	mov $apic, %ecx
	call write
	mov $0x84c, %eax
	mov $vector, %ecx
	call write
	mov $0x840, %eax
	call read
	or $0x10000, %eax		# on
	mov %eax, %ecx
	mov $0x840, %eax
	jmp write

# write: the register that %eax names becomes %ecx.
write:	call config
	mov $0xcfc, %edx
	mov %ecx, %eax
	out %eax, (%dx)
	ret

# expect: gives the device some time to interrupt, and prints the reason, or 0 if none came.
expect:	mov $1000000, %ecx
again:	cmpl $0, reason
	jne some
	pause
	loop again
some:	mov reason, %eax
	movl $0, reason
	mov $interrupt, %esi
	jmp say

# copy: the device copies from %eax to %ebx, by the command %ecx.
copy:	mov %eax, bar + 0x80
	mov %ebx, bar + 0x88
	movl $2048, bar + 0x90
	mov %ecx, bar + 0x98

# wait: sleeps until the device has interrupted, and prints the reason.
wait:	cli
	mov reason, %eax
	test %eax, %eax
	jnz came
	sti				# nothing comes between this and hlt
	hlt
	jmp wait
came:	movl $0, reason
	sti
	mov $interrupt, %esi

# say: prints the text at %esi, then %eax, then the end of the line.
say:	mov %eax, %ebx
text:	lodsb
	test %al, %al
	jz value
	call char
	jmp text
value:	mov %ebx, %eax
	call hex
	mov $'\n', %al
	jmp char

# The interrupt: keeps its reason, and tells the device and the local APIC that it was seen.
handler:
	push %eax
	mov bar + 0x24, %eax
	mov %eax, bar + 0x64
	mov %eax, reason
	movl $0, apic + 0xb0
	pop %eax
	iret

interrupt:
	.asciz "interrupt, reason "
came_back:
	.asciz "words that came back: "

	.balign 8
reason:	.long 0
descriptors:
	.word 15
	.long 1f
gates:	.word vector * 8 + 7
	.long gate - vector * 8
1:	.quad 0
	.quad 0x00cf9b000000ffff	# code, from 0 to 4 GiB
gate:	.word 0, 8, 0x8e00, 0
