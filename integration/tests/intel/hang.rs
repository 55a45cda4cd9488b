use lab::bochs::{BROADWELL, Bochs, ICE_LAKE};
use lab::scenario::Scenario;
pub fn all() -> Vec<Scenario> {
    let q: u32 = std::env::var("Q")
        .ok()
        .and_then(|q| q.parse().ok())
        .unwrap_or(16);
    let n: u32 = std::env::var("N")
        .ok()
        .and_then(|q| q.parse().ok())
        .unwrap_or(3);
    let model = if std::env::var("M").is_ok() {
        BROADWELL
    } else {
        ICE_LAKE
    };
    vec![Scenario::new("hang").limit(7000).machine(|m| m.bochs = Some(Bochs { quantum: q, ..Bochs::with_vmx(model) }))
        .script(format!("make_mdev 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 mtty-2
sample() {{
 until grep -q 'L2: done poweroff' /run/vmm.console; do usleep 20000; done
 for k in $(seq 300); do
  [ -e /proc/$1 ] || return 0
  say \"sample $k at $(milliseconds)\"
  for thread in /proc/$1/task/*; do
   say \"$(cat $thread/comm) $(cut -d' ' -f3,14,15 $thread/stat) $(cat $thread/wchan) $(cut -d' ' -f1 $thread/syscall) $(grep nonvol $thread/status | tr -d '\\n') $(sed 's/^[^ ]* //; s/+.*//' $thread/stack | tr '\\n' ' ')\"
  done
  usleep 100000
 done
}}
for n in $(seq {n}); do
 say \"round $n at $(milliseconds)\"
 start_vmm $boot --memory 128M --cpus 4 --iommu iommufd --vfio 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 --cmdline \"$cmdline lab.act=serial-moved\"
 sample $vmm_pid &
 wait_vmm
done\n"), |_| Ok(()))]
}
