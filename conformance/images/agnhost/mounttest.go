package main

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

func init() { register("mounttest", mounttest) }

const tmpfsMagic = 0x01021994

func mounttest(args []string) error {
	set := flags("mounttest")
	fsType := set.String("fs_type", "", "path whose file system type is printed")
	mode := set.String("file_mode", "", "path whose mode is printed")
	perm := set.String("file_perm", "", "path whose permissions are printed")
	owner := set.String("file_owner", "", "path whose owner is printed")
	content := set.String("file_content", "", "path that is printed")
	loop := set.String("file_content_in_loop", "", "path that is printed again and again")
	retry := set.Int("retry_time", 180, "seconds of the loop")
	set.Bool("break_on_expected_content", true, "end the loop on the content written by this program")
	fresh := map[os.FileMode]*string{}
	for _, bits := range []os.FileMode{0o644, 0o666, 0o660, 0o777} {
		fresh[bits] = set.String(fmt.Sprintf("new_file_%04o", bits), "", "path to write and read")
	}
	parse(set, args)
	stop := set.Lookup("break_on_expected_content").Value.String() == "true"
	syscall.Umask(0)
	var failed error
	step := func(path string, run func(path string) error) {
		if path != "" {
			if err := run(path); err != nil {
				fmt.Printf("error: %v\n", err)
				failed = err
			}
		}
	}
	step(*fsType, printType)
	for _, bits := range []os.FileMode{0o644, 0o666, 0o660, 0o777} {
		step(*fresh[bits], func(path string) error {
			if err := os.WriteFile(path, []byte(written), bits); err != nil {
				return err
			}
			_, err := printContent(path)
			return err
		})
	}
	step(*mode, func(path string) error {
		info, err := os.Stat(path)
		if err == nil {
			fmt.Printf("mode of file %q: %v\n", path, info.Mode())
		}
		return err
	})
	step(*perm, func(path string) error {
		info, err := os.Stat(path)
		if err == nil {
			fmt.Printf("perms of file %q: %v\n", path, info.Mode().Perm())
		}
		return err
	})
	step(*content, func(path string) error { _, err := printContent(path); return err })
	step(*loop, func(path string) error { return contentLoop(path, *retry, stop) })
	step(*owner, func(path string) error {
		var stat syscall.Stat_t
		err := syscall.Stat(path, &stat)
		if err == nil {
			fmt.Printf("owner UID of %q: %d\nowner GID of %q: %d\n", path, stat.Uid, path, stat.Gid)
		}
		return err
	})
	return failed
}

const written = "mount-tester new file\n"

func printType(path string) error {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(path, &stat); err != nil {
		return fmt.Errorf("statfs %s: %w", path, err)
	}
	if stat.Type == tmpfsMagic {
		fmt.Printf("mount type of %q: tmpfs\n", path)
	} else {
		fmt.Printf("mount type of %q: %v\n", path, stat.Type)
	}
	return nil
}

func printContent(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err == nil {
		fmt.Printf("content of file %q: %s\n", path, data)
	}
	return string(data), err
}

func contentLoop(path string, seconds int, stop bool) error {
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); time.Sleep(2 * time.Second) {
		text, err := printContent(path)
		if err != nil {
			fmt.Printf("Error reading file %s: %v, retrying\n", path, err)
		} else if stop && text == written {
			return nil
		}
	}
	return nil
}
