module rotunda.test/seaweedfs

go 1.26.0

require github.com/seaweedfs/seaweedfs v0.0.0-20230109022022-51d4a4b28d0e // indirect
