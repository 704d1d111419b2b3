package pluginhost

import "os"

func hostChild(string) int { os.Exit(1); return 1 }
