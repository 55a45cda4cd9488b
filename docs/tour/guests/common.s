# What the guests of chapters 5 to 10 share: the PVH note, and four routines. Each leaves the
# registers that it does not name as they were.
	.section .note, "a", @note
	.long 4, 4, 18
	.asciz "Xen"
	.long begin

	.text
	.code32
begin:	mov $0x90000, %esp
	call main
	mov $0x600, %edx		# power off
	mov $0x34, %al
	out %al, (%dx)
	hlt

# config: selects a register of PCI's configuration space for the ports 0xcfc to 0xcff.
# %eax is bus << 16 | device << 11 | function << 8 | register, without the enable bit.
config:	push %edx
	push %eax
	or $0x80000000, %eax
	mov $0xcf8, %edx
	out %eax, (%dx)
	pop %eax
	pop %edx
	ret

# read: %eax becomes the register that %eax names.
read:	push %edx
	call config
	mov $0xcfc, %edx
	in (%dx), %eax
	pop %edx
	ret

# char: sends %al.
char:	push %edx
	mov $0x3f8, %edx
	out %al, (%dx)
	pop %edx
	ret

# hex: sends %eax as eight digits, and a space.
hex:	push %eax
	push %ebx
	push %ecx
	mov %eax, %ebx
	mov $8, %ecx
digit:	rol $4, %ebx
	mov %bl, %al
	and $15, %al
	add $'0', %al
	cmp $'9', %al
	jbe small
	add $'a' - '9' - 1, %al
small:	call char
	loop digit
	mov $' ', %al
	call char
	pop %ecx
	pop %ebx
	pop %eax
	ret
