# A Vagrant that starts nothing and says which boxes are asked for: ruby tests/vagrant.rb Vagrantfile
class Noted
  def initialize(machine = nil) = @machine = machine
  def vm = self
  def respond_to_missing?(*) = true

  def define(name, **_options)
    machine = { name: name }
    yield Noted.new(machine)
    puts "#{machine.fetch(:name)} #{machine.fetch(:box)}"
  end

  def box=(box)
    @machine[:box] = box
  end

  def method_missing(_name, *_arguments, **_options)
    yield Noted.new if block_given?
    self
  end
end

module Vagrant
  def self.configure(_version) = yield(Noted.new)
end

load File.expand_path(ARGV.fetch(0))
