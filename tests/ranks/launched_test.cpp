// What launchers tell by the environment.
#include "swiftprune/ranks/launched.h"

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace swiftprune {
namespace {

using test::expect_error;

// Variables for one test.
class Environment {
 public:
  using Variables = std::vector<std::pair<std::string, std::string>>;
  explicit Environment(const Variables& variables) : variables_(variables) {
    for (const auto& [name, value] : variables_) ::setenv(name.c_str(), value.c_str(), 1);
  }
  ~Environment() {
    for (const auto& [name, value] : variables_) ::unsetenv(name.c_str());
  }

 private:
  Variables variables_;
};

TEST(LaunchedRank, EveryLauncherIsKnown) {
  EXPECT_FALSE(launched_rank());
  {
    const Environment mpirun(
        Environment::Variables{{"OMPI_COMM_WORLD_SIZE", "4"},
                               {"OMPI_COMM_WORLD_RANK", "3"},
                               {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                               {"SLURM_STEP_NUM_TASKS", "1"}});  // of the srun that started mpirun
    const auto found = launched_rank();
    ASSERT_TRUE(found);
    EXPECT_EQ(found->rank, 3);
    EXPECT_EQ(found->size, 4);
    EXPECT_EQ(found->local_rank, 1);
    EXPECT_EQ(found->launcher, "mpirun");
    EXPECT_EQ(found->size_variable, "OMPI_COMM_WORLD_SIZE");
  }
  {
    const Environment mpich(Environment::Variables{{"PMI_SIZE", "2"}, {"PMI_RANK", "0"}});
    ASSERT_TRUE(launched_rank());
    EXPECT_EQ(launched_rank()->launcher, "mpiexec");
    EXPECT_EQ(launched_rank()->local_rank, 0);
  }
  const Environment srun(
      Environment::Variables{{"SLURM_STEP_NUM_TASKS", "8"}, {"SLURM_PROCID", "5"}, {"SLURM_LOCALID", "5"}});
  ASSERT_TRUE(launched_rank());
  EXPECT_EQ(launched_rank()->launcher, "srun");
  EXPECT_EQ(launched_rank()->rank, 5);
}

TEST(LaunchedRank, OneProcessIsAlone) {
  const Environment of_job(
      Environment::Variables{{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}});  // of a job, outside of a step
  EXPECT_FALSE(launched_rank());
  const Environment one(Environment::Variables{{"OMPI_COMM_WORLD_SIZE", "1"}, {"OMPI_COMM_WORLD_RANK", "0"}});
  EXPECT_FALSE(launched_rank());
}

TEST(LaunchedRank, WhatMakesNoSenseIsRefusedByName) {
  {
    const Environment text(Environment::Variables{{"PMI_SIZE", "two"}});
    expect_error(ErrorKind::kUsage, [] { launched_rank(); }, {"PMI_SIZE", "two"});
  }
  {
    const Environment missing(Environment::Variables{{"OMPI_COMM_WORLD_SIZE", "2"}});
    expect_error(ErrorKind::kUsage, [] { launched_rank(); }, {"OMPI_COMM_WORLD_RANK", "nothing"});
  }
  {
    const Environment beyond(
        Environment::Variables{{"OMPI_COMM_WORLD_SIZE", "2"}, {"OMPI_COMM_WORLD_RANK", "2"}});
    expect_error(ErrorKind::kUsage, [] { launched_rank(); }, {"OMPI_COMM_WORLD_RANK", "found 2"});
  }
  const Environment torchrun(
      Environment::Variables{{"MASTER_ADDR", "localhost"}, {"WORLD_SIZE", "2"}, {"RANK", "2"}});
  expect_error(ErrorKind::kUsage, [] { launched_rank(); }, {"RANK: found 2", "WORLD_SIZE=2"});
}

TEST(LaunchedRank, TorchrunsProcessesHaveNoMpi) {
  const Environment torchrun(Environment::Variables{
      {"MASTER_ADDR", "localhost"}, {"WORLD_SIZE", "4"}, {"RANK", "3"}, {"LOCAL_RANK", "1"}});
  const auto found = launched_rank();
  ASSERT_TRUE(found);
  EXPECT_EQ(found->launcher, "torchrun");
  EXPECT_FALSE(found->has_mpi);
  EXPECT_EQ(found->rank, 3);
  EXPECT_EQ(found->gpu, 1);
  const Environment one_gpu(
      Environment::Variables{{"CUDA_VISIBLE_DEVICES", "6"}});  // shown to each process alone
  EXPECT_EQ(launched_rank()->gpu, 0);
}

TEST(LaunchedRank, VariablesOfTrainingWithoutAnAddressTellNothing) {
  const Environment job(Environment::Variables{{"WORLD_SIZE", "2"}, {"RANK", "1"}});
  EXPECT_FALSE(launched_rank());
}

TEST(LaunchedRank, TheProcessesOfGpus) {
  const Environment own(Environment::Variables{
      {kOwnRankVariables[0], "1"}, {kOwnRankVariables[1], "2"}, {kOwnRankVariables[2], "1"}});
  ASSERT_TRUE(launched_rank());
  EXPECT_EQ(launched_rank()->launcher, "--gpus");
  EXPECT_FALSE(launched_rank()->has_mpi);
}

}  // namespace
}  // namespace swiftprune
