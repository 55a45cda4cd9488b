# A question for each pair.
# Gets: The guest read port 0x3fd 17 times, and each read is an exit: one answer is good for sixteen characters, so send sixteen before you ask again.
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
	mov $2, %ecx
send:	mov (%esi), %al
	out %al, (%dx)
	inc %esi
	cmp $end, %esi
	je done
	loop send
	jmp ask
done:
	mov $0x600, %edx
	mov $0x34, %al
	out %al, (%dx)
	hlt
text:	.ascii "the guest waits for what it reads"
end:
