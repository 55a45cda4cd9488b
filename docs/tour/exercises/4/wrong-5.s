# The machine stays on.
# Gets: The guest did not end within 5 s: `hlt` alone waits for an interrupt that does not come, so write 0x34 to port 0x600 first, which switches the machine off.
	.section .note, "a", @note
	.long 4, 4, 18
	.asciz "Xen"
	.long start
	.text
	.code32
start:	mov $text, %esi
ask:	mov $0x3fd, %edx
wait:	in (%dx), %al
	test $0x20, %al
	jz wait
	mov $0x3f8, %edx
	mov $16, %ecx
send:	mov (%esi), %al
	out %al, (%dx)
	inc %esi
	cmp $end, %esi
	je done
	loop send
	jmp ask
done:
	hlt
text:	.ascii "the guest waits for what it reads"
end:
