# How the image of pgprov boots: by a kernel beside its disk, and with nothing that Vagrant would expect of a desktop.
Vagrant.configure("2") do |config|
  config.ssh.username = "root"
  config.ssh.sudo_command = "%c"
  config.vm.synced_folder ".", "/vagrant", disabled: true
  config.vm.provider :libvirt do |libvirt|
    libvirt.kernel = File.join(__dir__, "vmlinux")
    libvirt.initrd = File.join(__dir__, "initrd")
    libvirt.cmd_line = "COMMAND LINE"
    libvirt.machine_type = "q35"
    libvirt.graphics_type = "none"
    libvirt.video_type = "none"
  end
end
